// The clients of the bench: N connections in a closed loop (the next request leaves when the answer to the last one came),
// one thread, frames taken in turn from a file. It says on stdout, one JSON object a line, when the measured time starts
// ({"event":"measuring"}) and what it saw ({"event":"result",...}), then keeps its connections until stdin ends.
// Anything but an OK final is an error, and one error fails the run (exit 1): a fast refusal must not look like speed.
// Usage: generator --socket PATH --frames FILE --connections N (--seconds S [--warmup S] | --requests N | --idle) [--own]
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
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
#include <time.h>
#include <unistd.h>

enum {
  PREFIX = 8,
  HEAD = 512,
  SCRATCH = 1 << 18,
  EVENTS = 256,
  // Latency buckets: 64 to each doubling, so within 1.6 % of the truth.
  FINE_BITS = 6,
  FINE = 1 << FINE_BITS,
  BUCKETS = 64 * FINE,
  OK = 0,
  PROCESSING = 1,
};

#define SECOND 1000000000ull
// A request that is not answered in this time never will be.
#define PATIENCE (15 * SECOND)

struct connection {
  int fd;
  // Frames of this connection are first .. first+count-1; `next` counts from 0.
  size_t first, count, next;
  // Bytes of the current frame that were sent.
  size_t sent;
  int writing;
  int in_flight;
  uint64_t started;
  // Start of the answer in progress, enough to judge and to quote it.
  unsigned char head[HEAD];
  uint64_t got;
};

static struct {
  const char *socket, *frames;
  size_t connections;
  double seconds, warmup;
  uint64_t requests;
  int idle, own;
} options = {.connections = 1, .seconds = 0, .warmup = 0};

static unsigned char *file;
static struct frame {
  const unsigned char *bytes;
  size_t length;
} *frames;
static size_t frame_count;

static struct connection *connections;
static int epoll;
static unsigned char scratch[SCRATCH];

static uint64_t histogram[BUCKETS];
static uint64_t worst;
static uint64_t measured, completed, sent_requests, in_flight;
static uint64_t measure_from = UINT64_MAX, measure_to = UINT64_MAX;
static int stopping;

static void die(const char *what) {
  fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void fail(const char *what) {
  fprintf(stderr, "generator: %s\n", what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static size_t bucket_of(uint64_t ns) {
  if (ns < FINE) return (size_t)ns;
  int exponent = 63 - __builtin_clzll(ns) - FINE_BITS;
  return ((size_t)exponent + 1) * FINE + (size_t)(ns >> exponent) - FINE;
}

// Upper end of a bucket, in microseconds.
static double microseconds(size_t bucket) {
  if (bucket < FINE) return (double)bucket / 1e3;
  size_t exponent = bucket / FINE - 1;
  return (double)((uint64_t)(bucket % FINE + FINE + 1) << exponent) / 1e3;
}

static double percentile(double share) {
  uint64_t wanted = (uint64_t)(share * (double)measured), seen = 0;
  for (size_t i = 0; i < BUCKETS; i++) {
    seen += histogram[i];
    if (seen > wanted) return microseconds(i);
  }
  return (double)worst / 1e3;
}

static void load_frames(void) {
  struct stat stats;
  int fd = open(options.frames, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stats) != 0) die(options.frames);
  size_t size = (size_t)stats.st_size;
  file = malloc(size);
  for (size_t have = 0; have < size;) {
    ssize_t n = read(fd, file + have, size - have);
    if (n <= 0) die(options.frames);
    have += (size_t)n;
  }
  close(fd);
  for (size_t at = 0; at < size;) {
    uint64_t length = 0;
    if (at + PREFIX <= size) memcpy(&length, file + at, PREFIX);
    if (length < PREFIX || length > size - at) fail("the frames file is not whole frames");
    frames = reallocarray(frames, frame_count + 1, sizeof *frames);
    if (frames == NULL) die("reallocarray");
    frames[frame_count++] = (struct frame){file + at, length};
    at += length;
  }
  if (frame_count == 0) fail("the frames file is empty");
}

static void watch(struct connection *c, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  if (epoll_ctl(epoll, operation, c->fd, &event) != 0) die("epoll_ctl");
}

static void flush(struct connection *c) {
  const struct frame *frame = &frames[c->first + c->next];
  while (c->sent < frame->length) {
    ssize_t n = send(c->fd, frame->bytes + c->sent, frame->length - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (!c->writing) watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
      c->writing = 1;
      return;
    }
    if (n < 0) die("send");
    c->sent += (size_t)n;
  }
  if (c->writing) watch(c, EPOLLIN, EPOLL_CTL_MOD);
  c->writing = 0;
}

static void request(struct connection *c, uint64_t at) {
  c->started = at;
  c->sent = 0;
  c->in_flight = 1;
  in_flight++;
  sent_requests++;
  flush(c);
}

// Ends the run with what the answer says: the printable bytes after its status, or the beginning of them.
static void refused(const struct connection *c, uint64_t length) {
  char text[HEAD + 1];
  size_t printable = 0;
  for (size_t i = PREFIX + 2; i < length && i < HEAD; i++) {
    if (c->head[i] >= 0x20 && c->head[i] < 0x7f) text[printable++] = (char)c->head[i];
  }
  text[printable] = '\0';
  fprintf(stderr, "generator: answered with something other than OK: %s\n", text);
  exit(1);
}

static void answered(struct connection *c, uint64_t length) {
  uint64_t at = now();
  int status = c->head[PREFIX] == 0x08 ? c->head[PREFIX + 1] : -1;
  c->got = 0;
  if (status == PROCESSING) return;
  if (!c->in_flight) fail("an answer nobody asked for");
  if (status != OK) refused(c, length);
  if (c->sent < frames[c->first + c->next].length) fail("answered before the request was sent whole");
  c->in_flight = 0;
  in_flight--;
  completed++;
  if (at >= measure_from && at < measure_to) {
    uint64_t took = at - c->started;
    measured++;
    histogram[bucket_of(took)]++;
    if (took > worst) worst = took;
  }
  c->next = c->next + 1 < c->count ? c->next + 1 : 0;
  // Frames of its own belong together (add, remove): a connection ends where it began.
  int unfinished = options.own && c->next != 0;
  if (unfinished || (!stopping && (options.requests == 0 || sent_requests < options.requests))) request(c, at);
}

static void receive(struct connection *c) {
  ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) die("recv");
  if (n == 0) fail("the connection was closed");
  const unsigned char *bytes = scratch;
  size_t size = (size_t)n;
  while (size > 0) {
    uint64_t length = PREFIX;
    if (c->got >= PREFIX) memcpy(&length, c->head, PREFIX);
    size_t rest = length - c->got < size ? length - c->got : size;
    if (c->got < HEAD) memcpy(c->head + c->got, bytes, rest < HEAD - c->got ? rest : HEAD - c->got);
    c->got += rest;
    bytes += rest;
    size -= rest;
    if (c->got < PREFIX) continue;
    memcpy(&length, c->head, PREFIX);
    if (length < PREFIX + 2) fail("an answer without a status");
    if (c->got == length) answered(c, length);
  }
}

static void connect_all(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(options.socket) >= sizeof address.sun_path) fail("path too long");
  strcpy(address.sun_path, options.socket);
  connections = calloc(options.connections, sizeof *connections);
  if (connections == NULL) die("calloc");
  for (size_t i = 0; i < options.connections; i++) {
    struct connection *c = &connections[i];
    // Blocking until connected: a full backlog is waited for, not an error.
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) die("connect");
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0) die("fcntl");
    if (options.own) {
      c->first = i * frame_count / options.connections;
      c->count = (i + 1) * frame_count / options.connections - c->first;
      if (c->count == 0) fail("fewer frames than connections");
    } else {
      c->count = frame_count;
      c->next = i * frame_count / options.connections;
    }
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
  }
}

static void turn(int timeout_ms) {
  struct epoll_event events[EVENTS];
  int count = epoll_wait(epoll, events, EVENTS, timeout_ms);
  if (count < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < count; i++) {
    struct connection *c = events[i].data.ptr;
    if (events[i].events & EPOLLOUT) flush(c);
    if (events[i].events & ~(uint32_t)EPOLLOUT) receive(c);
  }
}

static void check_patience(void) {
  uint64_t at = now();
  for (size_t i = 0; i < options.connections; i++) {
    if (connections[i].in_flight && at - connections[i].started > PATIENCE) fail("a request was not answered");
  }
}

// Runs until `end`, or until all requests asked for are answered; looks at the clock once a turn.
static void run_until(uint64_t end) {
  uint64_t checked = now();
  for (uint64_t at = checked; at < end && (options.requests == 0 || completed < options.requests); at = now()) {
    uint64_t left_ms = (end - at) / 1000000 + 1;
    turn(left_ms > 100 ? 100 : (int)left_ms);
    if (at - checked > SECOND) check_patience();
    if (at - checked > SECOND) checked = at;
  }
}

static void drain(void) {
  stopping = 1;
  while (in_flight > 0) {
    turn(100);
    check_patience();
  }
}

static void hold(void) {
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) continue;
}

// Idle connections: each has asked once, since only then does a proxy have its own connection behind it.
static void idle(void) {
  stopping = 1;
  for (size_t i = 0; i < options.connections; i++) {
    request(&connections[i], now());
    // A few at a time: this is about what they cost when they rest.
    while (in_flight >= 16) {
      turn(100);
      check_patience();
    }
  }
  drain();
  printf("{\"event\":\"idle\",\"connections\":%zu}\n", options.connections);
  fflush(stdout);
  hold();
}

static void measure(void) {
  uint64_t started = now();
  for (size_t i = 0; i < options.connections; i++) {
    if (options.requests == 0 || sent_requests < options.requests) request(&connections[i], now());
  }
  run_until(started + (uint64_t)(options.warmup * 1e9));
  printf("{\"event\":\"measuring\"}\n");
  fflush(stdout);
  double cpu = cpu_seconds();
  measure_from = now();
  measure_to = options.requests == 0 ? measure_from + (uint64_t)(options.seconds * 1e9) : UINT64_MAX;
  run_until(measure_to);
  uint64_t ended = now();
  cpu = cpu_seconds() - cpu;
  uint64_t in_time = measured;
  drain();
  double seconds = (double)((ended < measure_to ? ended : measure_to) - measure_from) / 1e9;
  printf("{\"event\":\"result\",\"requests\":%lu,\"total\":%lu,\"seconds\":%.6f,\"perSecond\":%.1f,"
         "\"p50Us\":%.1f,\"p90Us\":%.1f,\"p99Us\":%.1f,\"maxUs\":%.1f,\"generatorCpuSeconds\":%.4f}\n",
         in_time, completed, seconds, (double)in_time / seconds, percentile(0.5), percentile(0.9), percentile(0.99),
         (double)worst / 1e3, cpu);
  fflush(stdout);
  hold();
}

int main(int argc, char **argv) {
  static const struct option known[] = {
      {"socket", required_argument, NULL, 's'},   {"frames", required_argument, NULL, 'f'},
      {"connections", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 't'},
      {"warmup", required_argument, NULL, 'w'},   {"requests", required_argument, NULL, 'r'},
      {"idle", no_argument, NULL, 'i'},           {"own", no_argument, NULL, 'o'},
      {NULL, 0, NULL, 0},
  };
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    switch (option) {
      case 's': options.socket = optarg; break;
      case 'f': options.frames = optarg; break;
      case 'c': options.connections = strtoul(optarg, NULL, 10); break;
      case 't': options.seconds = strtod(optarg, NULL); break;
      case 'w': options.warmup = strtod(optarg, NULL); break;
      case 'r': options.requests = strtoull(optarg, NULL, 10); break;
      case 'i': options.idle = 1; break;
      case 'o': options.own = 1; break;
      default: return 2;
    }
  }
  if (options.socket == NULL || options.frames == NULL || options.connections == 0 ||
      (options.seconds <= 0 && options.requests == 0 && !options.idle)) {
    fail("needs --socket, --frames, --connections and one of --seconds, --requests, --idle");
  }
  // Never outlives the bench that started it.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  load_frames();
  epoll = epoll_create1(EPOLL_CLOEXEC);
  connect_all();
  if (options.idle) idle();
  else measure();
  return 0;
}
