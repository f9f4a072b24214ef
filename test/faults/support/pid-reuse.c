// pid-reuse SOCKET FRAMES HONEST PROGRAM [ARGUMENT]...
//
// The first process of a pid namespace. Starts PROGRAM, which listens on SOCKET, and for each frame in the file FRAMES has a
// client of its own uid connect and be accepted later: the first HONEST of them stay, each of the others is gone by then
// and another process, of another uid and name, has its pid. The connection itself is kept, the frame is sent and its
// final read. A line of JSON on stdout for each client; then PROGRAM is stopped.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_UID = 30000, IMPOSTOR_UID = 65534, PREFIX = 8, PROCESSING = 1, TRIES = 100 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void end(pid_t child) {
  if (kill(child, SIGKILL) < 0 || waitpid(child, NULL, 0) < 0) fail("ending a child");
}

static void become(const char *name, uid_t uid) {
  if (prctl(PR_SET_NAME, name) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0) fail(name);
}

static void read_all(int fd, unsigned char *to, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t count = read(fd, to + done, size - done);
    if (count < 0) fail("read");
    if (count == 0) {
      fprintf(stderr, "the connection ended early\n");
      exit(1);
    }
    done += (size_t)count;
  }
}

/** A frame's whole length is its first eight bytes, little-endian. */
static uint64_t read_frame(int fd, unsigned char *frame, size_t room) {
  uint64_t length;
  read_all(fd, frame, PREFIX);
  memcpy(&length, frame, PREFIX);
  if (length < PREFIX || length > room) {
    fprintf(stderr, "no frame\n");
    exit(1);
  }
  read_all(fd, frame + PREFIX, length - PREFIX);
  return length;
}

/** A child that tells through a pipe when it is what it is to be: connected, or the bearer of a name. */
static pid_t start(const char *name, uid_t uid, int fd, const struct sockaddr_un *address) {
  int told[2];
  char byte;
  if (pipe(told) < 0) fail("pipe");
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    become(name, uid);
    if (address != NULL && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0) fail("connect");
    if (write(told[1], ".", 1) != 1) fail("write");
    for (;;) pause();
  }
  close(told[1]);
  if (read(told[0], &byte, 1) != 1) fail("a child did not come up");
  close(told[0]);
  return child;
}

/** Another process under the pid that `gone` had. */
static pid_t take_pid(pid_t gone) {
  for (int attempt = 0; attempt < TRIES; attempt += 1) {
    FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");
    if (last == NULL || fprintf(last, "%d", gone - 1) < 0 || fclose(last) != 0) fail("ns_last_pid");
    pid_t child = start("impostor", IMPOSTOR_UID, -1, NULL);
    if (child == gone) return child;
    // Somebody else came first: a thread, a helper.
    end(child);
  }
  fprintf(stderr, "pid %d could not be had\n", gone);
  exit(1);
}

int main(int argc, char **argv) {
  static unsigned char frame[65536], answer[65536];
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat found;
  if (argc < 5 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  int frames = open(argv[2], O_RDONLY | O_CLOEXEC), honest = atoi(argv[3]);
  if (frames < 0 || fstat(frames, &found) < 0) fail(argv[2]);
  off_t left = found.st_size;
  pid_t daemon = fork();
  if (daemon < 0) fail("fork");
  if (daemon == 0) {
    execvp(argv[4], argv + 4);
    fail(argv[4]);
  }
  while (stat(argv[1], &found) < 0) {
    if (errno != ENOENT || waitpid(daemon, NULL, WNOHANG) != 0) fail("waiting for the socket");
    usleep(5000);
  }
  for (int round = 0; left > 0; round += 1) {
    size_t length = read_frame(frames, frame, sizeof frame);
    left -= (off_t)length;
    if (kill(daemon, SIGSTOP) < 0 || waitpid(daemon, NULL, WUNTRACED) < 0) fail("stopping the daemon");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    uid_t uid = (uid_t)(FIRST_UID + round);
    pid_t client = start("client", uid, fd, &address), present = client;
    if (round >= honest) {
      end(client);
      present = take_pid(client);
    }
    if (kill(daemon, SIGCONT) < 0) fail("continuing the daemon");
    if (write(fd, frame, length) != (ssize_t)length) fail("write");
    do read_frame(fd, answer, sizeof answer);
    while (answer[PREFIX] == 0x08 && answer[PREFIX + 1] == PROCESSING);
    close(fd);
    end(present);
    printf("{\"round\":%d,\"pid\":%d,\"uid\":%d,\"reused\":%s}\n", round, client, uid, round < honest ? "false" : "true");
  }
  if (kill(daemon, SIGTERM) < 0 || waitpid(daemon, NULL, 0) < 0) fail("stopping the daemon");
  return 0;
}
