/* Faults made to order.
 *
 * The functions below carry the C library's names, and an executable's own functions come first: calls of ours and of
 * the libraries end here, and go on to the kernel by syscall(2). So no caller knows about faults, and none can be
 * forgotten. Allocations of OpenSSL and libevent come through the hooks these libraries have. c-ares is left alone:
 * releases up to 1.34.5 were seen to use freed memory after an allocation that failed. */
#undef _FORTIFY_SOURCE /* it would turn some of these names into others */

#include "adit/base/fault.h"

#ifdef ADIT_FAULTS

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call {
	CALL_ALLOC, CALL_OPENSSL, CALL_LIBEVENT,
	CALL_RECV, CALL_SEND, CALL_UDP_RECV, CALL_UDP_SEND, CALL_ACCEPT, CALL_SOCKET, CALL_CONNECT, CALL_EPOLL, CALL_WAIT,
	CALL_OPEN, CALL_WRITE, CALL_TRUNCATE, CALL_RENAME, CALL_MKDIR,
	CALL_COUNT
};

static const char *const call_names[CALL_COUNT] = {
	"alloc", "openssl", "libevent",
	"recv", "send", "udprecv", "udpsend", "accept", "socket", "connect", "epoll", "wait",
	"open", "write", "truncate", "rename", "mkdir"
};

enum { RULES_MAX = 8, SPECIFICATION_MAX = 256, WELL = 0, SHORT = -1, FDS = 4096, HEAD = 5, ERRORS = 134 };

struct rule {
	enum call call;
	int how; /* an errno, or SHORT */
	unsigned long n, seen;
	bool every, later;
};

/* One direction of a TLS connection, record by record. */
struct record {
	unsigned char head[HEAD];
	size_t have, left; /* bytes of the head that have passed; of the body that have not */
	unsigned number;
	bool blocked; /* it just was, so now it goes on */
};

struct tls_socket {
	bool is;
	struct record in, out;
};

/* The file of ADIT_FAULTS=file:PATH, mapped. The writer puts the text, then counts `turn` up. */
struct control {
	uint64_t turn, hits;
	char specification[SPECIFICATION_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over all of these */
static struct rule rules[RULES_MAX];
static size_t rule_count;
static unsigned long hits;
static long clock_ahead_s;
static bool borders;
static struct tls_socket tls_sockets[FDS];
static volatile struct control *control;
static uint64_t control_turn;

static _Thread_local bool spared;

/* --- specifications --- */

static int error_named(const char *name)
{
	if (strcmp(name, "short") == 0)
		return SHORT;
	if (strcmp(name, "fail") == 0)
		return ENOMEM;
	for (int e = 1; e < ERRORS; e++)
		if (strerrorname_np(e) && strcmp(strerrorname_np(e), name) == 0)
			return e;
	return WELL;
}

/* HOW=N, HOW@N or HOW@N+ */
static bool read_how(struct rule *rule, char *how)
{
	char *at = strpbrk(how, "=@"), *end;

	if (!at)
		return false;
	rule->every = *at == '=';
	*at++ = '\0';
	rule->how = error_named(how);
	rule->n = strtoul(at, &end, 10);
	rule->later = !rule->every && *end == '+';
	return rule->how != WELL && rule->n > 0 && end != at && end[rule->later] == '\0';
}

static bool read_part(char *part)
{
	char *how = strchr(part, ':'), *end;
	struct rule *rule = &rules[rule_count];

	if (!how)
		return false;
	*how++ = '\0';
	if (strcmp(part, "tls") == 0) {
		borders = strcmp(how, "borders") == 0;
		return borders;
	}
	if (strcmp(part, "clock") == 0) {
		clock_ahead_s = strtol(how, &end, 10);
		return end != how && *end == '\0';
	}
	for (int i = 0; i < CALL_COUNT && rule_count < RULES_MAX; i++)
		if (strcmp(call_names[i], part) == 0) {
			*rule = (struct rule){ .call = (enum call)i };
			rule_count++;
			return read_how(rule, how);
		}
	return false;
}

static bool read_specification(const char *text)
{
	char copy[SPECIFICATION_MAX], *rest = copy, *part;
	bool good = true;

	rule_count = 0;
	hits = 0;
	clock_ahead_s = 0;
	borders = false;
	snprintf(copy, sizeof(copy), "%s", text);
	while (good && (part = strsep(&rest, ",\n")))
		good = *part == '\0' || read_part(part);
	if (!good)
		rule_count = 0;
	return good;
}

static void follow_control(void)
{
	char text[SPECIFICATION_MAX];

	if (!control || control->turn == control_turn)
		return;
	control_turn = control->turn;
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = control->specification[i];
	text[sizeof(text) - 1] = '\0';
	control->hits = 0;
	(void)read_specification(text);
}

/* --- allocations --- */

static int verdict(enum call call);

static void *library_alloc(enum call call, void *old, size_t n)
{
	return verdict(call) ? NULL : realloc(old, n);
}

static void *openssl_malloc(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return n == 0 ? NULL : library_alloc(CALL_OPENSSL, NULL, n);
}

static void openssl_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	free(p);
}

static void *openssl_realloc(void *p, size_t n, const char *file, int line)
{
	if (n > 0)
		return library_alloc(CALL_OPENSSL, p, n);
	openssl_free(p, file, line);
	return NULL;
}

static void *libevent_malloc(size_t n)
{
	return library_alloc(CALL_LIBEVENT, NULL, n);
}

static void *libevent_realloc(void *p, size_t n)
{
	return library_alloc(CALL_LIBEVENT, p, n);
}

bool fault_alloc(void)
{
	return verdict(CALL_ALLOC) != WELL;
}

/* --- life --- */

static _Noreturn void refuse_to_start(const char *what, const char *text)
{
	dprintf(STDERR_FILENO, "adit: ADIT_FAULTS: %s: %s\n", what, text);
	_exit(2);
}

static void map_control(const char *path)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		refuse_to_start(path, strerrordesc_np(errno));
	close(fd);
	control = p;
}

/* Before main: OpenSSL takes its hooks only before its first allocation. */
__attribute__((constructor)) static void begin(void)
{
	const char *text = getenv("ADIT_FAULTS");

	if (CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) != 1)
		refuse_to_start("OpenSSL", "has allocated already");
	event_set_mem_functions(libevent_malloc, libevent_realloc, free);
	if (text && strncmp(text, "file:", 5) == 0)
		map_control(text + 5);
	else if (text && !read_specification(text))
		refuse_to_start("not understood", text);
}

bool fault_set(const char *specification)
{
	bool good;

	pthread_mutex_lock(&lock);
	good = read_specification(specification ? specification : "");
	pthread_mutex_unlock(&lock);
	return good;
}

unsigned long fault_hits(void)
{
	unsigned long n;

	pthread_mutex_lock(&lock);
	n = hits;
	pthread_mutex_unlock(&lock);
	return n;
}

void fault_spare(bool on)
{
	spared = on;
}

/* --- what becomes of a call --- */

static bool strikes(struct rule *rule)
{
	unsigned long seen = ++rule->seen;

	return rule->every ? seen % rule->n == 0 : seen == rule->n || (rule->later && seen > rule->n);
}

/* WELL, SHORT or an errno. */
static int verdict(enum call call)
{
	int how = WELL;

	if (spared)
		return WELL;
	pthread_mutex_lock(&lock);
	follow_control();
	for (size_t i = 0; i < rule_count; i++)
		if (rules[i].call == call && strikes(&rules[i]) && how == WELL) {
			how = rules[i].how;
			hits++;
		}
	if (control)
		control->hits = hits;
	pthread_mutex_unlock(&lock);
	return how;
}

static long failed(int error)
{
	errno = error;
	return -1;
}

/* A call without a short form. */
static int refusal(enum call call)
{
	int how = verdict(call);

	return how > 0 ? (int)failed(how) : 0;
}

/* --- TLS records --- */

/* How much may pass, or 0: it blocks. `next` shows the bytes about to pass, if known. */
static size_t record_take(struct record *r, const unsigned char *next, size_t n)
{
	unsigned char head[HEAD];
	size_t missing = HEAD - r->have, most = r->left;

	if (r->left == 0) {
		r->blocked = !r->blocked;
		if (r->blocked)
			return 0;
		most = 1 + r->number++ % HEAD;
		most = most < missing ? most : missing;
		if (next && n >= missing) {
			memcpy(head, r->head, r->have);
			memcpy(head + r->have, next, missing);
			most = missing + (size_t)(head[3] << 8 | head[4]);
		}
	}
	return most < n ? most : n;
}

static void record_passed(struct record *r, const unsigned char *p, size_t n)
{
	while (n > 0) {
		size_t step = r->left < n ? r->left : n;

		if (step == 0) {
			r->head[r->have++] = *p;
			step = 1;
			if (r->have == HEAD) {
				r->left = (size_t)(r->head[3] << 8 | r->head[4]);
				r->have = 0;
			}
		} else {
			r->left -= step;
		}
		p += step;
		n -= step;
	}
}

static struct tls_socket *tls_socket_of(int fd)
{
	return borders && !spared && fd >= 0 && fd < FDS && tls_sockets[fd].is ? &tls_sockets[fd] : NULL;
}

static void tls_socket_is(int fd, bool is)
{
	if (fd < 0 || fd >= FDS)
		return;
	pthread_mutex_lock(&lock);
	tls_sockets[fd] = (struct tls_socket){ .is = is };
	pthread_mutex_unlock(&lock);
}

/* How much of n bytes may pass now, where borders matter; -1: all. What passes must be told by border_passed. */
static ssize_t border_take(int fd, bool out, const void *next, size_t n)
{
	struct tls_socket *t;
	ssize_t take = -1;

	pthread_mutex_lock(&lock);
	t = tls_socket_of(fd);
	if (t)
		take = (ssize_t)record_take(out ? &t->out : &t->in, next, n);
	if (take == 0)
		hits++;
	pthread_mutex_unlock(&lock);
	return take;
}

static void border_passed(int fd, bool out, const void *p, long n)
{
	struct tls_socket *t;

	pthread_mutex_lock(&lock);
	t = tls_socket_of(fd);
	if (t && n > 0)
		record_passed(out ? &t->out : &t->in, p, (size_t)n);
	pthread_mutex_unlock(&lock);
}

/* --- instead of the C library's --- */

#define INSTEAD_OF(name) __asm__(#name)

ssize_t fault_recv(int fd, void *buf, size_t n, int flags) INSTEAD_OF(recv);
ssize_t fault_recvfrom(int fd, void *buf, size_t n, int flags, void *from, socklen_t *from_n) INSTEAD_OF(recvfrom);
ssize_t fault_send(int fd, const void *buf, size_t n, int flags) INSTEAD_OF(send);
ssize_t fault_sendto(int fd, const void *buf, size_t n, int flags, const void *to, socklen_t to_n) INSTEAD_OF(sendto);
ssize_t fault_writev(int fd, const struct iovec *iov, int count) INSTEAD_OF(writev);
int fault_accept4(int fd, void *from, socklen_t *from_n, int flags) INSTEAD_OF(accept4);
int fault_socket(int family, int type, int protocol) INSTEAD_OF(socket);
int fault_connect(int fd, const void *to, socklen_t n) INSTEAD_OF(connect);
int fault_epoll_ctl(int ep, int op, int fd, struct epoll_event *event) INSTEAD_OF(epoll_ctl);
int fault_epoll_wait(int ep, struct epoll_event *events, int most, int ms) INSTEAD_OF(epoll_wait);
int fault_openat(int dir, const char *path, int flags, ...) INSTEAD_OF(openat);
int fault_ftruncate(int fd, off_t size) INSTEAD_OF(ftruncate);
int fault_renameat(int from_dir, const char *from, int to_dir, const char *to) INSTEAD_OF(renameat);
int fault_mkdirat(int dir, const char *path, mode_t mode) INSTEAD_OF(mkdirat);
int fault_clock_gettime(clockid_t clock, struct timespec *t) INSTEAD_OF(clock_gettime);
int fault_gettimeofday(struct timeval *t, void *zone) INSTEAD_OF(gettimeofday);
time_t fault_time(time_t *t) INSTEAD_OF(time);

static bool is_datagram(int fd)
{
	int type = 0;
	socklen_t n = sizeof(type);

	return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_DGRAM;
}

ssize_t fault_recvfrom(int fd, void *buf, size_t n, int flags, void *from, socklen_t *from_n)
{
	ssize_t border = flags & MSG_PEEK ? -1 : border_take(fd, false, NULL, n);
	int how = verdict(is_datagram(fd) ? CALL_UDP_RECV : CALL_RECV);
	long r;

	if (border == 0)
		return failed(EAGAIN);
	if (how > 0)
		return failed(how);
	if (border > 0)
		n = (size_t)border;
	r = syscall(SYS_recvfrom, fd, buf, how == SHORT && n > 0 ? 1 : n, flags, from, from_n);
	if (border > 0)
		border_passed(fd, false, buf, r);
	return r;
}

ssize_t fault_recv(int fd, void *buf, size_t n, int flags)
{
	return fault_recvfrom(fd, buf, n, flags, NULL, NULL);
}

ssize_t fault_sendto(int fd, const void *buf, size_t n, int flags, const void *to, socklen_t to_n)
{
	ssize_t border = border_take(fd, true, buf, n);
	int how = verdict(is_datagram(fd) ? CALL_UDP_SEND : CALL_SEND);
	long r;

	if (border == 0)
		return failed(EAGAIN);
	if (how > 0)
		return failed(how);
	if (border > 0)
		n = (size_t)border;
	r = syscall(SYS_sendto, fd, buf, how == SHORT && n > 0 ? 1 : n, flags, to, to_n);
	if (border > 0)
		border_passed(fd, true, buf, r);
	return r;
}

ssize_t fault_send(int fd, const void *buf, size_t n, int flags)
{
	return fault_sendto(fd, buf, n, flags, NULL, 0);
}

ssize_t fault_writev(int fd, const struct iovec *iov, int count)
{
	struct stat st;
	int how;

	if (syscall(SYS_fstat, fd, &st) == 0 && S_ISSOCK(st.st_mode)) {
		int i = 0;

		while (i < count - 1 && iov[i].iov_len == 0)
			i++;
		/* one piece of it is a short write */
		return count > 0 ? fault_sendto(fd, iov[i].iov_base, iov[i].iov_len, MSG_NOSIGNAL, NULL, 0) : 0;
	}
	how = verdict(CALL_WRITE);
	if (how > 0)
		return failed(how);
	if (how == SHORT && count > 0)
		return syscall(SYS_write, fd, iov->iov_base, (iov->iov_len + 1) / 2);
	return syscall(SYS_writev, fd, iov, count);
}

int fault_accept4(int fd, void *from, socklen_t *from_n, int flags)
{
	int got = refusal(CALL_ACCEPT);

	if (got != 0)
		return got;
	got = (int)syscall(SYS_accept4, fd, from, from_n, flags);
	tls_socket_is(got, !spared);
	return got;
}

int fault_socket(int family, int type, int protocol)
{
	int got = refusal(CALL_SOCKET);

	if (got != 0)
		return got;
	got = (int)syscall(SYS_socket, family, type, protocol);
	tls_socket_is(got, false);
	return got;
}

int fault_connect(int fd, const void *to, socklen_t n)
{
	int how = verdict(CALL_CONNECT);
	long r;

	if (how > 0 && how != EINTR)
		return (int)failed(how);
	r = syscall(SYS_connect, fd, to, n);
	/* an interrupted connect goes on all the same */
	return how == EINTR && (r == 0 || errno == EINPROGRESS) ? (int)failed(EINTR) : (int)r;
}

int fault_epoll_ctl(int ep, int op, int fd, struct epoll_event *event)
{
	/* giving back never fails */
	if (op != EPOLL_CTL_DEL && refusal(CALL_EPOLL) != 0)
		return -1;
	return (int)syscall(SYS_epoll_ctl, ep, op, fd, event);
}

int fault_epoll_wait(int ep, struct epoll_event *events, int most, int ms)
{
	return refusal(CALL_WAIT) != 0 ? -1 : (int)syscall(SYS_epoll_pwait, ep, events, most, ms, NULL, 0L);
}

int fault_openat(int dir, const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list args;

	if (flags & O_CREAT) {
		va_start(args, flags);
		mode = va_arg(args, mode_t);
		va_end(args);
	}
	return refusal(CALL_OPEN) != 0 ? -1 : (int)syscall(SYS_openat, dir, path, flags, mode);
}

int fault_ftruncate(int fd, off_t size)
{
	return refusal(CALL_TRUNCATE) != 0 ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

int fault_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return refusal(CALL_RENAME) != 0 ? -1 : (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

int fault_mkdirat(int dir, const char *path, mode_t mode)
{
	return refusal(CALL_MKDIR) != 0 ? -1 : (int)syscall(SYS_mkdirat, dir, path, mode);
}

/* The whole process sees the step, OpenSSL's ticket ages and libevent included. */
int fault_clock_gettime(clockid_t clock, struct timespec *t)
{
	int r = (int)syscall(SYS_clock_gettime, clock, t);

	if (r != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
		return r;
	pthread_mutex_lock(&lock);
	follow_control();
	t->tv_sec += clock_ahead_s;
	pthread_mutex_unlock(&lock);
	return 0;
}

int fault_gettimeofday(struct timeval *t, void *zone)
{
	struct timespec now;

	(void)zone;
	if (fault_clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	*t = (struct timeval){ .tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000 };
	return 0;
}

time_t fault_time(time_t *t)
{
	struct timespec now = { 0 };

	(void)fault_clock_gettime(CLOCK_REALTIME, &now);
	if (t)
		*t = now.tv_sec;
	return now.tv_sec;
}

#else
/* ISO C wants a translation unit to hold something. */
extern int fault_none;
#endif
