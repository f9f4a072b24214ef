// Stands where Sōzu would, for the bench: answers every request with bytes that were prepared for its kind, as fast as one
// thread can. It keeps nothing and checks nothing but the framing (an 8-byte little-endian length that counts itself), so
// that it is never what a measurement finds. Answers are files made by the project's own encoder.
// Usage: answerer SOCKET DEFAULT_ANSWER [TAG=ANSWER ...]   (TAG: field number of the request, as in the schema)
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PREFIX = 8, KEY_BYTES = 3, MAX_TAG = 256, SCRATCH = 1 << 18, EVENTS = 256 };

struct answer {
  char *bytes;
  size_t length;
};

struct connection {
  // Prefix and the key of the first field: all that is looked at.
  unsigned char head[PREFIX + KEY_BYTES];
  // Bytes of the frame in progress that have come.
  uint64_t got;
  // An answer the socket did not take whole; nothing is read meanwhile.
  const struct answer *pending;
  size_t sent;
  int writing;
};

static struct answer answers[MAX_TAG];
static struct connection *connections;
static size_t max_connections;
static int epoll;
static char scratch[SCRATCH];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static struct answer load(const char *path) {
  struct stat stats;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stats) != 0) die(path);
  struct answer answer = {malloc((size_t)stats.st_size), (size_t)stats.st_size};
  if (answer.bytes == NULL || read(fd, answer.bytes, answer.length) != (ssize_t)answer.length) die(path);
  close(fd);
  return answer;
}

static void watch(int fd, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  if (epoll_ctl(epoll, operation, fd, &event) != 0) die("epoll_ctl");
}

static void drop(int fd) {
  close(fd);
  memset(&connections[fd], 0, sizeof connections[fd]);
}

// Returns 0 when the connection is over.
static int flush(int fd, struct connection *c) {
  while (c->pending != NULL) {
    ssize_t n = send(fd, c->pending->bytes + c->sent, c->pending->length - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (!c->writing) watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
      c->writing = 1;
      return 1;
    }
    if (n < 0) return 0;
    c->sent += (size_t)n;
    if (c->sent == c->pending->length) c->pending = NULL;
  }
  if (c->writing) watch(fd, EPOLLIN, EPOLL_CTL_MOD);
  c->writing = 0;
  return 1;
}

static const struct answer *answer_to(const struct connection *c, uint64_t length) {
  uint64_t key = 0;
  for (uint64_t at = PREFIX, shift = 0; at < length && at < sizeof c->head; at++, shift += 7) {
    key |= (uint64_t)(c->head[at] & 0x7f) << shift;
    if (c->head[at] < 0x80) break;
  }
  uint64_t tag = key >> 3;
  return tag < MAX_TAG && answers[tag].bytes != NULL ? &answers[tag] : &answers[0];
}

// Takes `size` bytes; at the end of each frame its answer is sent. Returns 0 when the connection is over.
static int take(int fd, struct connection *c, const char *bytes, size_t size) {
  while (size > 0) {
    uint64_t length = 0;
    if (c->got < sizeof c->head) {
      size_t room = sizeof c->head - c->got;
      // Never beyond this frame: the next one starts where it ends.
      if (c->got < PREFIX && room > PREFIX - c->got) room = PREFIX - c->got;
      if (c->got >= PREFIX) {
        memcpy(&length, c->head, PREFIX);
        if (room > length - c->got) room = length - c->got;
      }
      if (room > size) room = size;
      memcpy(c->head + c->got, bytes, room);
      c->got += room;
      bytes += room;
      size -= room;
      if (c->got < PREFIX) return 1;
      memcpy(&length, c->head, PREFIX);
      if (length < PREFIX) return 0;
    } else {
      memcpy(&length, c->head, PREFIX);
      size_t rest = length - c->got < size ? length - c->got : size;
      c->got += rest;
      bytes += rest;
      size -= rest;
    }
    if (c->got < length) continue;
    const struct answer *answer = answer_to(c, length);
    c->got = 0;
    // One request at a time is the protocol; a client that writes ahead is not one of ours.
    if (c->pending != NULL) return 0;
    c->pending = answer;
    c->sent = 0;
    if (!flush(fd, c)) return 0;
  }
  return 1;
}

static void serve(int fd) {
  struct connection *c = &connections[fd];
  if (c->writing) {
    if (!flush(fd, c)) drop(fd);
    return;
  }
  ssize_t n = recv(fd, scratch, sizeof scratch, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0 || !take(fd, c, scratch, (size_t)n)) drop(fd);
}

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    fprintf(stderr, "answerer: path too long\n");
    exit(1);
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0) die(path);
  return fd;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: answerer SOCKET DEFAULT_ANSWER [TAG=ANSWER ...]\n");
    return 2;
  }
  // Never outlives the bench that started it.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  answers[0] = load(argv[2]);
  for (int i = 3; i < argc; i++) {
    char *file = strchr(argv[i], '=');
    int tag = atoi(argv[i]);
    if (file == NULL || tag <= 0 || tag >= MAX_TAG) {
      fprintf(stderr, "answerer: %s is no TAG=ANSWER\n", argv[i]);
      return 2;
    }
    answers[tag] = load(file + 1);
  }
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) die("getrlimit");
  max_connections = files.rlim_cur;
  connections = calloc(max_connections, sizeof *connections);
  if (connections == NULL) die("calloc");
  epoll = epoll_create1(EPOLL_CLOEXEC);
  int listener = listen_at(argv[1]);
  watch(listener, EPOLLIN, EPOLL_CTL_ADD);
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll, events, EVENTS, -1);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd != listener) {
        serve(events[i].data.fd);
        continue;
      }
      for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
      }
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) die("accept4");
    }
  }
}
