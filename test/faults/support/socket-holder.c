// socket-holder SOCKET PROGRAM [ARGUMENT]...
//
// What systemd does for a .socket unit, and nothing else: listens on SOCKET, hands the listening socket to PROGRAM as
// descriptor 3 (sd_listen_fds(3)) and starts PROGRAM again whenever it ends. Each start is a line of JSON on stderr. PROGRAM
// dies with us. After SIGUSR1, the one that runs is the last.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t last;

static void be_last(int signal) {
  (void)signal;
  last = 1;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc < 3 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (listener < 0) fail("socket");
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  if (listen(listener, SOMAXCONN) < 0) fail("listen");
  struct sigaction action = {.sa_handler = be_last, .sa_flags = SA_RESTART};
  if (sigaction(SIGUSR1, &action, NULL) < 0) fail("sigaction");
  while (!last) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      char own[16];
      snprintf(own, sizeof own, "%d", getpid());
      if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) fail("prctl");
      if (listener != 3 && (dup2(listener, 3) < 0 || close(listener) < 0)) fail("dup2");
      if (setenv("LISTEN_FDS", "1", 1) < 0 || setenv("LISTEN_PID", own, 1) < 0) fail("setenv");
      execvp(argv[2], argv + 2);
      fail(argv[2]);
    }
    fprintf(stderr, "{\"level\":\"info\",\"msg\":\"started by the holder\",\"pid\":%d}\n", child);
    int status = 0;
    if (waitpid(child, &status, 0) < 0) fail("waitpid");
    fprintf(stderr, "{\"level\":\"info\",\"msg\":\"ended\",\"pid\":%d,\"code\":%d,\"signal\":%d}\n", child,
            WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  }
  return 0;
}
