// An account database that hangs: a module of the name service switch, built as one of the modules the C library has a name
// for (-DMODULE=…). While the file GATE exists a question waits, as one to a dead directory server does; otherwise the module knows
// nobody, so that the next one is asked. Each question leaves a byte in GATE.asked.
#include <errno.h>
#include <fcntl.h>
#include <nss.h>
#include <pwd.h>
#include <unistd.h>

#define JOIN(module) _nss_##module##_getpwuid_r
#define NAME(module) JOIN(module)

enum nss_status NAME(MODULE)(uid_t uid, struct passwd *result, char *buffer, size_t size, int *error);

enum nss_status NAME(MODULE)(uid_t uid, struct passwd *result, char *buffer, size_t size, int *error) {
  (void)uid, (void)result, (void)buffer, (void)size;
  int asked = open(GATE ".asked", O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (asked >= 0) {
    ssize_t written = write(asked, ".", 1);
    (void)written;
    close(asked);
  }
  while (access(GATE, F_OK) == 0) usleep(10000);
  *error = ENOENT;
  return NSS_STATUS_NOTFOUND;
}
