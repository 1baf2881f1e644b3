/* Load through a secure proxy's tunnels, over HTTP/1.1 and over HTTP/2, by one tool and in one way; and the target of
 * these tunnels.
 *
 *     h2_load origin HOST            serves at a free port of HOST, prints the port, ends when its stdin does
 *     h2_load MODE --proxy HOST:PORT --origin HOST:PORT [--user NAME:PASSWORD] [--h1] [OPTION...]
 *
 *     down, up   N tunnels (--streams) carry bytes one way: --bytes in each tunnel, or, without, for --seconds after
 *                --warmup. Every byte is compared with a pattern. Upwards only what the origin acknowledged counts.
 *     setup      new tunnels for --seconds, --streams at a time: CONNECT, one byte echoed, end. Over HTTP/1.1 with a
 *                handshake each (--resume: abbreviated), over HTTP/2 on one connection, ended by END_STREAM both ways,
 *                or --cancel: by RST_STREAM, as browsers do.
 *     stall      N tunnels that stand still, --kind down: the origin sends and the client opens no windows; up: the
 *                client sends and the origin does not read; both; deaf: the client opens its windows, and does not
 *                read. Says so once nothing moves any more, probes with echoes in one more tunnel, and stays until its
 *                stdin ends.
 *
 * Over HTTP/2 all tunnels are streams of one connection, over HTTP/1.1 each has its own. --window: of each stream
 * (16 MiB); --chain: each HEADERS depends exclusively on the stream before, as browsers have it. Prints one line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	PERIOD = 65521, /* of the pattern: no buffer's size shares a factor with it */
	CHUNK = 256 * 1024,
	ORDER_BYTES = 16, /* what a tunnel begins with: a letter, digits, a line end */
	EVENTS = 64,
	PROBES = 100,
	PROBE_LIMIT_S = 5,
	QUIET_S = 1, /* without a byte: it stands still */
};

static char pattern[PERIOD + CHUNK];

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)fputs("h2_load: ", stderr);
	(void)vfprintf(stderr, format, args);
	(void)fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static void check(bool ok, const char *what)
{
	if (!ok) {
		ERR_print_errors_fp(stderr);
		die("%s: %s", what, strerror(errno));
	}
}

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void make_pattern(void)
{
	uint32_t x = 1;

	for (size_t i = 0; i < sizeof pattern; i++) {
		x = x * 1664525 + 1013904223;
		pattern[i] = i < PERIOD ? (char)(x >> 24) : pattern[i - PERIOD];
	}
}

static bool is_pattern(uint64_t at, const char *bytes, size_t n)
{
	while (n > 0) {
		size_t part = n < CHUNK ? n : CHUNK;

		if (memcmp(bytes, pattern + at % PERIOD, part) != 0)
			return false;
		at += part;
		bytes += part;
		n -= part;
	}
	return true;
}

static struct sockaddr_in address(const char *text)
{
	struct sockaddr_in sin = { .sin_family = AF_INET };
	const char *colon = strrchr(text, ':');
	char host[64];

	(void)snprintf(host, sizeof host, "%.*s", colon != NULL ? (int)(colon - text) : 63, text);
	if (inet_pton(AF_INET, host, &sin.sin_addr) != 1)
		die("%s is no IPv4 address with a port", text);
	sin.sin_port = htons((uint16_t)(colon != NULL ? strtoul(colon + 1, NULL, 10) : 0));
	return sin;
}

static void watch(int epoll, int fd, void *object, unsigned events, bool add)
{
	struct epoll_event event = { .events = events, .data.ptr = object };

	check(epoll_ctl(epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0, "epoll_ctl");
}

/* --- the origin: does what the first bytes of a connection order --- */

/* D n: sends n bytes, 0: without end. U n: reads, a dot for every n bytes. E: echo. M: nothing, and does not read.
 * B: sends without end and does not read. */
struct visitor {
	int fd;
	char order[ORDER_BYTES + 1];
	size_t order_n;
	uint64_t number, sent, received;
	bool eof;
};

static bool visitor_writes(const struct visitor *v)
{
	return v->order[0] == 'B' || (v->order[0] == 'D' && (v->number == 0 || v->sent < v->number));
}

/* False: it is done with. */
static bool visitor_ordered(int epoll, struct visitor *v)
{
	v->number = strtoull(v->order + 1, NULL, 10);
	switch (v->order[0]) {
	case 'U':
	case 'E':
		return true;
	case 'M':
		watch(epoll, v->fd, v, 0, false);
		return true;
	case 'B':
		watch(epoll, v->fd, v, EPOLLOUT, false);
		return true;
	case 'D':
		watch(epoll, v->fd, v, EPOLLIN | EPOLLOUT, false);
		return true;
	default:
		(void)fprintf(stderr, "h2_load: origin: no order: %.*s\n", ORDER_BYTES, v->order);
		return false;
	}
}

static bool visitor_read(int epoll, struct visitor *v)
{
	static char buffer[CHUNK];
	bool ordered = v->order_n == ORDER_BYTES;
	ssize_t n = ordered ? read(v->fd, buffer, sizeof buffer) :
		read(v->fd, v->order + v->order_n, ORDER_BYTES - v->order_n);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0) {
		if (!visitor_writes(v))
			return false;
		watch(epoll, v->fd, v, EPOLLOUT, false);
		return true;
	}
	if (!ordered) {
		v->order_n += (size_t)n;
		return v->order_n < ORDER_BYTES || visitor_ordered(epoll, v);
	}
	if (v->order[0] == 'E')
		return send(v->fd, buffer, (size_t)n, MSG_NOSIGNAL) == n;
	if (v->order[0] == 'U') {
		uint64_t dots = (v->received + (uint64_t)n) / v->number - v->received / v->number;

		if (!is_pattern(v->received, buffer, (size_t)n)) {
			(void)fprintf(stderr, "h2_load: origin: wrong bytes\n");
			return false;
		}
		v->received += (uint64_t)n;
		memset(buffer, '.', (size_t)dots);
		return dots == 0 || send(v->fd, buffer, (size_t)dots, MSG_NOSIGNAL) == (ssize_t)dots;
	}
	return true;
}

static bool visitor_write(int epoll, struct visitor *v)
{
	uint64_t left = v->number == 0 ? CHUNK : v->number - v->sent;
	ssize_t n = send(v->fd, pattern + v->sent % PERIOD, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	v->sent += (uint64_t)n;
	if (visitor_writes(v))
		return true;
	watch(epoll, v->fd, v, EPOLLIN, false);
	return shutdown(v->fd, SHUT_WR) == 0;
}

static void serve(int epoll, int listener)
{
	for (;;) {
		struct epoll_event events[EVENTS];
		int n = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			struct visitor *v = events[i].data.ptr;
			char bin[16];

			if (v == NULL) { /* stdin */
				if (read(STDIN_FILENO, bin, sizeof bin) <= 0)
					return;
			} else if (v->fd == listener) {
				int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

				if (fd >= 0) {
					check((v = calloc(1, sizeof *v)) != NULL, "calloc");
					v->fd = fd;
					watch(epoll, fd, v, EPOLLIN, true);
				}
			} else if ((events[i].events & EPOLLERR) ||
				((events[i].events & (EPOLLIN | EPOLLHUP)) && !visitor_read(epoll, v)) ||
				((events[i].events & EPOLLOUT) && visitor_writes(v) && !visitor_write(epoll, v))) {
				(void)close(v->fd);
				free(v);
			}
		}
	}
}

static int origin(const char *host)
{
	struct sockaddr_in sin = address(host);
	socklen_t size = sizeof sin;
	static struct visitor door;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	door.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	check(bind(door.fd, (struct sockaddr *)&sin, sizeof sin) == 0 && listen(door.fd, 1024) == 0 &&
		getsockname(door.fd, (struct sockaddr *)&sin, &size) == 0, "listen");
	watch(epoll, door.fd, &door, EPOLLIN, true);
	watch(epoll, STDIN_FILENO, NULL, EPOLLIN, true);
	(void)printf("%u\n", ntohs(sin.sin_port));
	(void)fflush(stdout);
	serve(epoll, door.fd);
	return 0;
}

/* --- the client --- */

enum mode { DOWN, UP, SETUP, STALL };

static struct options {
	enum mode mode;
	struct sockaddr_in proxy;
	const char *origin;
	char credentials[512]; /* "Basic ..." */
	bool h1, chain, resume, cancel;
	size_t streams;
	uint64_t bytes, ack;
	double seconds, warmup;
	unsigned window;
	bool stall_down, stall_up, deaf;
} opt = { .streams = 1, .seconds = 5, .warmup = 1, .window = 16 << 20, .ack = 64 << 10 };

struct conn;

struct tunnel {
	struct conn *conn;
	int32_t stream;
	bool echo; /* a byte there, and back; over and over when it is a probe */
	bool open, deferred, finishing, done;
	char order[ORDER_BYTES + 1];
	size_t order_at;
	size_t echo_due;
	uint64_t sent, received;
	uint64_t counted_from; /* what had come when the window began */
	double done_at, asked_at;
};

struct conn {
	int fd;
	SSL *ssl;
	bool ready, deaf, finished, again;
	unsigned events;
	nghttp2_session *h2;
	char *buffer; /* h2: frames on their way out */
	const char *out;
	size_t out_n;
	struct tunnel *tunnel; /* h1: the only one */
	char head[4096]; /* h1: the answer */
	size_t head_n;
	bool asked;
	int32_t last_stream;
};

static SSL_CTX *ctx;
static SSL_SESSION *session; /* the newest ticket */
static int epoll;
static struct tunnel *tunnels;
static size_t opened, done_count, errors, resumed, handshakes;
static bool going; /* tunnels carry bytes only when all are open */
static bool told_to_go; /* GOAWAY: the proxy has had enough of short streams */
static double probe_s[PROBES];
static size_t probes;

static void conn_flush(struct conn *c);

/* --- what goes through a tunnel --- */

static void tunnel_order(struct tunnel *t)
{
	const char *letter = opt.mode == DOWN ? "D" : opt.mode == UP ? "U" : opt.mode == SETUP ? "E" :
		!opt.stall_up ? "D" : opt.stall_down ? "B" : "M";
	uint64_t number = opt.mode == DOWN ? opt.bytes : opt.mode == UP ? opt.ack : 0;

	t->echo = t->echo || opt.mode == SETUP;
	t->echo_due = t->echo;
	(void)snprintf(t->order, sizeof t->order, "%s%014llu\n", t->echo ? "E" : letter, (unsigned long long)number);
}

/* The next bytes to send, taken as sent. */
static size_t tunnel_next(struct tunnel *t, const char **at, size_t max)
{
	uint64_t left = opt.mode == UP && opt.bytes > 0 ? opt.bytes - t->sent : CHUNK;
	size_t n;

	if (!t->open || !going)
		return 0;
	if (t->order_at < ORDER_BYTES) {
		n = ORDER_BYTES - t->order_at;
		n = n < max ? n : max;
		*at = t->order + t->order_at;
		t->order_at += n;
		return n;
	}
	if (t->echo) {
		n = t->echo_due;
		t->echo_due = 0;
		t->asked_at = n > 0 ? now() : t->asked_at;
		*at = "x";
		return n;
	}
	if (opt.mode != UP && !(opt.mode == STALL && opt.stall_up))
		return 0;
	n = left < CHUNK ? (size_t)left : CHUNK;
	n = n < max ? n : max;
	*at = pattern + t->sent % PERIOD;
	t->sent += n;
	return n;
}

static void tunnel_kick(struct tunnel *t)
{
	if (t->deferred) {
		t->deferred = false;
		check(nghttp2_session_resume_data(t->conn->h2, t->stream) == 0, "nghttp2_session_resume_data");
	}
	t->conn->again = true;
}

static void tunnel_done(struct tunnel *t)
{
	if (!t->done) {
		t->done = true;
		t->done_at = now();
		done_count++;
	}
}

static void tunnel_opened(struct tunnel *t, int status)
{
	if (status != 200)
		die("the proxy answered %d", status);
	t->open = true;
	opened++;
	if (opt.mode == SETUP || t->echo)
		tunnel_kick(t);
}

static void tunnel_echoed(struct tunnel *t)
{
	if (opt.mode == SETUP) {
		t->finishing = true;
		if (opt.h1)
			t->conn->finished = true;
		else if (opt.cancel)
			check(nghttp2_submit_rst_stream(t->conn->h2, NGHTTP2_FLAG_NONE, t->stream, NGHTTP2_CANCEL) == 0, "RST_STREAM");
		tunnel_kick(t);
		return;
	}
	probe_s[probes++] = now() - t->asked_at;
	t->echo_due = probes < PROBES;
	if (t->conn->h2 != NULL)
		(void)nghttp2_session_consume(t->conn->h2, t->stream, 1);
	tunnel_kick(t);
}

static void tunnel_received(struct tunnel *t, const char *bytes, size_t n)
{
	if (t->echo) {
		tunnel_echoed(t);
		return;
	}
	if (opt.mode != UP && !is_pattern(t->received, bytes, n))
		die("wrong bytes came");
	t->received += opt.mode == UP ? n * opt.ack : n;
	if (opt.bytes > 0 && t->received >= opt.bytes)
		tunnel_done(t);
}

/* The tunnel has ended, as it should or not. */
static void tunnel_ended(struct tunnel *t, unsigned code)
{
	if (opt.mode == SETUP && t->finishing) {
		tunnel_done(t);
		return;
	}
	if (opt.mode == SETUP) {
		errors++;
		t->done = true;
		return;
	}
	if (!t->done)
		die("a tunnel ended too early, after %llu bytes, error %u", (unsigned long long)t->received, code);
}

/* --- HTTP/2 --- */

static struct tunnel *of_stream(nghttp2_session *h2, int32_t id)
{
	return nghttp2_session_get_stream_user_data(h2, id);
}

static ssize_t on_want_data(nghttp2_session *h2, int32_t id, uint8_t *buffer, size_t size, uint32_t *flags,
	nghttp2_data_source *source, void *conn)
{
	struct tunnel *t = source->ptr;
	const char *at;
	size_t n = tunnel_next(t, &at, size);

	(void)h2, (void)id, (void)conn;
	if (n == 0 && t->finishing) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		return 0;
	}
	t->deferred = n == 0;
	if (n == 0)
		return NGHTTP2_ERR_DEFERRED;
	memcpy(buffer, at, n);
	return (ssize_t)n;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *bytes, size_t n, void *conn)
{
	struct tunnel *t = of_stream(h2, id);

	(void)flags, (void)conn;
	if (t != NULL)
		tunnel_received(t, (const char *)bytes, n);
	return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
	const uint8_t *value, size_t value_n, uint8_t flags, void *conn)
{
	struct tunnel *t = of_stream(h2, frame->hd.stream_id);

	(void)flags, (void)conn, (void)value_n;
	if (t != NULL && !t->open && name_n == 7 && memcmp(name, ":status", 7) == 0)
		tunnel_opened(t, (int)strtol((const char *)value, NULL, 10));
	return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *conn)
{
	(void)conn;
	if (frame->hd.type == NGHTTP2_GOAWAY && opt.mode == SETUP)
		told_to_go = true;
	else if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
		die("the proxy said GOAWAY, error %u", frame->goaway.error_code);
	if (frame->hd.type == NGHTTP2_DATA && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
		struct tunnel *t = of_stream(h2, frame->hd.stream_id);

		if (t != NULL && !t->done && opt.mode != SETUP)
			tunnel_ended(t, 0);
	}
	return 0;
}

static int on_stream_end(nghttp2_session *h2, int32_t id, uint32_t code, void *conn)
{
	struct tunnel *t = of_stream(h2, id);

	(void)conn;
	if (t != NULL)
		tunnel_ended(t, code);
	return 0;
}

static nghttp2_nv field(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
		NGHTTP2_NV_FLAG_NONE };
}

static void h2_ask(struct conn *c, struct tunnel *t)
{
	nghttp2_nv fields[] = { field(":method", "CONNECT"), field(":authority", opt.origin),
		field("proxy-authorization", opt.credentials) };
	nghttp2_data_provider provider = { .source.ptr = t, .read_callback = on_want_data };
	nghttp2_priority_spec priority;

	nghttp2_priority_spec_init(&priority, c->last_stream, 256, 1);
	t->conn = c;
	t->stream = nghttp2_submit_request(c->h2, opt.chain ? &priority : NULL, fields, 3, &provider, t);
	check(t->stream > 0, "nghttp2_submit_request");
	c->last_stream = t->stream;
	c->again = true;
}

static void h2_start(struct conn *c)
{
	nghttp2_settings_entry settings[] = { { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, opt.mode == STALL && !opt.deaf ? 65535 : opt.window } };
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_option *options = NULL;

	check(nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&options) == 0, "nghttp2");
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_end);
	nghttp2_option_set_no_auto_window_update(options, opt.mode == STALL);
	check(nghttp2_session_client_new2(&c->h2, callbacks, c, options) == 0, "nghttp2_session_client_new2");
	nghttp2_session_callbacks_del(callbacks);
	nghttp2_option_del(options);
	check((c->buffer = malloc(CHUNK)) != NULL, "malloc");
	check(nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, settings, 2) == 0 &&
		nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, INT32_MAX) == 0, "settings");
	for (size_t i = 0; i < opt.streams; i++)
		h2_ask(c, &tunnels[i]);
}

/* Several frames together, as many as make a good write. */
static size_t h2_next(struct conn *c)
{
	size_t n = 0;

	while (n < CHUNK - 17 * 1024) {
		const uint8_t *frames;
		ssize_t some = nghttp2_session_mem_send(c->h2, &frames);

		check(some >= 0 && (size_t)some <= CHUNK - n, "nghttp2_session_mem_send");
		if (some == 0)
			break;
		memcpy(c->buffer + n, frames, (size_t)some);
		n += (size_t)some;
	}
	c->out = c->buffer;
	return n;
}

/* --- HTTP/1.1 --- */

static size_t h1_next(struct conn *c)
{
	static char request[2048];

	if (c->asked)
		return tunnel_next(c->tunnel, &c->out, CHUNK);
	c->asked = true;
	c->out = request;
	return (size_t)snprintf(request, sizeof request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: %s\r\n\r\n",
		opt.origin, opt.origin, opt.credentials);
}

static void h1_received(struct conn *c, const char *bytes, size_t n)
{
	while (!c->tunnel->open && n > 0) {
		if (c->head_n == sizeof c->head - 1)
			die("the proxy's answer is too long");
		c->head[c->head_n++] = *bytes++;
		n--;
		if (c->head_n >= 4 && memcmp(c->head + c->head_n - 4, "\r\n\r\n", 4) == 0)
			tunnel_opened(c->tunnel, c->head_n > 12 ? (int)strtol(c->head + 9, NULL, 10) : 0);
	}
	if (n > 0)
		tunnel_received(c->tunnel, bytes, n);
}

/* --- connections --- */

static int on_session(SSL *ssl, SSL_SESSION *fresh)
{
	(void)ssl;
	SSL_SESSION_free(session);
	session = fresh;
	return 1;
}

static struct conn *conn_open(struct tunnel *t)
{
	struct conn *c = calloc(1, sizeof *c);
	int on = 1;

	check(c != NULL, "calloc");
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(connect(c->fd, (struct sockaddr *)&opt.proxy, sizeof opt.proxy) == 0, "connect");
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	c->ssl = SSL_new(ctx);
	check(c->ssl != NULL && SSL_set_fd(c->ssl, c->fd) == 1, "SSL");
	check(BIO_socket_nbio(c->fd, 1) == 1, "non-blocking");
	SSL_set_connect_state(c->ssl);
	if (opt.resume && session != NULL)
		(void)SSL_set_session(c->ssl, session);
	c->tunnel = t;
	if (t != NULL)
		t->conn = c;
	c->events = EPOLLIN;
	watch(epoll, c->fd, c, EPOLLIN, true);
	c->again = true;
	return c;
}

static void conn_free(struct conn *c)
{
	(void)SSL_shutdown(c->ssl);
	SSL_free(c->ssl);
	ERR_clear_error();
	(void)close(c->fd);
	nghttp2_session_del(c->h2);
	free(c->buffer);
	free(c);
}

static void conn_watch(struct conn *c, bool blocked)
{
	unsigned events = (c->deaf ? 0u : (unsigned)EPOLLIN) | (blocked ? (unsigned)EPOLLOUT : 0u);

	if (c->events != events)
		watch(epoll, c->fd, c, events, false);
	c->events = events;
}

static void conn_flush(struct conn *c)
{
	while (c->out_n > 0 || (c->out_n = c->h2 != NULL ? h2_next(c) : h1_next(c)) > 0) {
		int n = SSL_write(c->ssl, c->out, (int)c->out_n);

		if (n <= 0) {
			int error = SSL_get_error(c->ssl, n);

			if (told_to_go || (opt.mode == SETUP && done_count > 0 && error == SSL_ERROR_SYSCALL))
				return; /* reading tells */
			if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ)
				die("writing: error %d, %s", error, strerror(errno));
			conn_watch(c, true);
			return;
		}
		c->out += n;
		c->out_n -= (size_t)n;
	}
	conn_watch(c, false);
}

static void conn_lost(struct conn *c)
{
	if (opt.mode == SETUP && !opt.h1)
		told_to_go = told_to_go || done_count > 0; /* the GOAWAY may be lost in a reset */
	if (told_to_go)
		return;
	if (opt.mode == SETUP && opt.h1) {
		errors++;
		c->finished = true;
		return;
	}
	if (c->h2 != NULL || !c->tunnel->done)
		die("the connection ended");
	conn_watch(c, false);
}

static void conn_read(struct conn *c)
{
	static char buffer[65536];

	for (int turn = 0; turn < 16 && !c->finished; turn++) {
		int n = SSL_read(c->ssl, buffer, sizeof buffer);

		if (n <= 0) {
			int error = SSL_get_error(c->ssl, n);

			if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
				conn_lost(c);
			return;
		}
		if (c->h2 == NULL) {
			h1_received(c, buffer, (size_t)n);
		} else {
			ssize_t used = nghttp2_session_mem_recv(c->h2, (const uint8_t *)buffer, (size_t)n);

			if (used < 0)
				die("frames: %s", nghttp2_strerror((int)used));
		}
	}
	c->again = c->again || SSL_has_pending(c->ssl) == 1;
}

static void conn_shake_hands(struct conn *c)
{
	const unsigned char *alpn;
	unsigned alpn_n;
	int n = SSL_do_handshake(c->ssl);

	if (n != 1) {
		int error = SSL_get_error(c->ssl, n);

		if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
			check(false, "handshake");
		return;
	}
	c->ready = true;
	handshakes++;
	resumed += SSL_session_reused(c->ssl) == 1;
	SSL_get0_alpn_selected(c->ssl, &alpn, &alpn_n);
	if (opt.h1)
		return;
	if (alpn_n != 2 || memcmp(alpn, "h2", 2) != 0)
		die("the proxy does not speak h2");
	h2_start(c);
}

static void conn_turn(struct conn *c)
{
	c->again = false;
	if (!c->ready)
		conn_shake_hands(c);
	if (!c->ready)
		return;
	if (!c->deaf)
		conn_read(c);
	if (!c->finished)
		conn_flush(c);
}

/* --- runs --- */

static struct conn **conns;
static size_t conn_count;

/* A tunnel of a set-up run is over: the next one. */
static void replace(void)
{
	for (size_t i = 0; i < opt.streams; i++) {
		struct tunnel *t = &tunnels[i];
		bool over = opt.h1 ? conns[i]->finished : t->done;

		if (!over)
			continue;
		if (opt.h1) {
			if (t->finishing)
				tunnel_done(t);
			conn_free(conns[i]);
		}
		*t = (struct tunnel){ .conn = t->conn };
		tunnel_order(t);
		if (opt.h1)
			conns[i] = conn_open(t);
		else
			h2_ask(t->conn, t);
	}
}

/* Everything that can be done until `until`, or one look. */
static void turn(double until)
{
	struct epoll_event events[EVENTS];
	bool again = false;
	double wait = until - now();
	int n;

	for (size_t i = 0; i < conn_count; i++)
		again = again || conns[i]->again;
	n = epoll_wait(epoll, events, EVENTS, again || wait <= 0 ? 0 : wait > 1 ? 1000 : (int)(wait * 1000) + 1);
	for (int i = 0; i < n; i++)
		((struct conn *)events[i].data.ptr)->again = true;
	for (size_t i = 0; i < conn_count; i++)
		if (conns[i]->again)
			conn_turn(conns[i]);
	if (opt.mode == SETUP)
		replace();
}

static void open_all(void)
{
	double limit = now() + 30;

	conn_count = opt.h1 ? opt.streams : 1;
	check((conns = calloc(conn_count + 1, sizeof *conns)) != NULL, "calloc"); /* one more for a probe */
	check((tunnels = calloc(opt.streams + 1, sizeof *tunnels)) != NULL, "calloc");
	for (size_t i = 0; i < opt.streams; i++)
		tunnel_order(&tunnels[i]);
	for (size_t i = 0; i < conn_count; i++)
		conns[i] = conn_open(opt.h1 ? &tunnels[i] : NULL);
	going = opt.mode == SETUP;
	while (opened < opt.streams) {
		if (now() > limit)
			die("%zu of %zu tunnels were opened", opened, opt.streams);
		turn(limit);
	}
}

static void go(void)
{
	going = true;
	for (size_t i = 0; i < opt.streams; i++)
		tunnel_kick(&tunnels[i]);
}

static void print_common(double seconds)
{
	struct rusage usage;
	struct tcp_info info = { 0 };
	socklen_t size = sizeof info;

	(void)getrusage(RUSAGE_SELF, &usage);
	(void)getsockopt(conns[0]->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
	(void)printf("\"seconds\": %.4f, \"rtt_ms\": %.2f, \"retransmits\": %u, \"client_cpu_s\": %.3f", seconds,
		info.tcpi_rtt / 1000.0, info.tcpi_total_retrans,
		(double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6);
}

static void transfer(void)
{
	uint64_t total = 0;
	double begin, end;

	open_all();
	go();
	begin = now();
	if (opt.bytes > 0) {
		while (done_count < opt.streams)
			turn(now() + 1);
		end = now();
	} else {
		while (now() < begin + opt.warmup)
			turn(begin + opt.warmup);
		for (size_t i = 0; i < opt.streams; i++)
			tunnels[i].counted_from = tunnels[i].received;
		begin = now();
		while (now() < begin + opt.seconds)
			turn(begin + opt.seconds);
		end = now();
	}
	(void)printf("{");
	print_common(end - begin);
	(void)printf(", \"each\": [");
	for (size_t i = 0; i < opt.streams; i++) {
		total += tunnels[i].received - tunnels[i].counted_from;
		(void)printf("%s%llu", i > 0 ? ", " : "",
			(unsigned long long)(tunnels[i].received - tunnels[i].counted_from));
	}
	(void)printf("], \"ends_s\": [");
	for (size_t i = 0; i < opt.streams && opt.bytes > 0; i++)
		(void)printf("%s%.4f", i > 0 ? ", " : "", tunnels[i].done_at - begin);
	(void)printf("], \"bytes\": %llu}\n", (unsigned long long)total);
}

static void set_ups(void)
{
	double begin = now();

	open_all();
	while (now() < begin + opt.seconds && !told_to_go)
		turn(begin + opt.seconds);
	(void)printf("{");
	print_common(now() - begin);
	(void)printf(", \"tunnels\": %zu, \"errors\": %zu, \"handshakes\": %zu, \"resumed\": %zu, \"goaway\": %s}\n", done_count,
		errors, handshakes, resumed, told_to_go ? "true" : "false");
}

static void add_probe(void)
{
	struct tunnel *t = &tunnels[opt.streams];

	t->echo = true;
	tunnel_order(t);
	if (opt.h1)
		conns[conn_count++] = conn_open(t);
	else
		h2_ask(conns[0], t);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static uint64_t moved(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < opt.streams; i++)
		sum += tunnels[i].sent + tunnels[i].received;
	return sum;
}

static void stall(void)
{
	uint64_t last = 0, up = 0, down = 0;
	double since, limit;
	char bin[16];

	open_all();
	for (size_t i = 0; i < conn_count; i++)
		conns[i]->deaf = opt.deaf || (opt.h1 && opt.stall_down);
	go();
	for (since = now(); now() < since + QUIET_S + (opt.deaf ? 1 : 0);) {
		turn(now() + 0.1);
		if (moved() != last)
			since = now();
		last = moved();
	}
	for (size_t i = 0; i < opt.streams; i++) {
		up += tunnels[i].sent;
		down += tunnels[i].received;
	}
	if (!opt.deaf || opt.h1) {
		add_probe();
		for (limit = now() + PROBE_LIMIT_S; probes < PROBES && now() < limit;)
			turn(limit);
	}
	qsort(probe_s, probes, sizeof *probe_s, compare);
	(void)printf("{");
	print_common(0);
	(void)printf(", \"up\": %llu, \"down\": %llu, \"probes\": %zu, \"probe_median_ms\": %.3f, \"probe_max_ms\": %.3f}\n",
		(unsigned long long)up, (unsigned long long)down, probes, probes > 0 ? probe_s[probes / 2] * 1e3 : -1,
		probes > 0 ? probe_s[probes - 1] * 1e3 : -1);
	(void)fflush(stdout);
	while (read(STDIN_FILENO, bin, sizeof bin) > 0)
		;
}

/* --- the command line --- */

static void take_user(const char *user)
{
	unsigned char base64[400];

	if (strlen(user) > 255)
		die("the password is too long");
	(void)EVP_EncodeBlock(base64, (const unsigned char *)user, (int)strlen(user));
	(void)snprintf(opt.credentials, sizeof opt.credentials, "Basic %s", base64);
}

static void take_kind(const char *kind)
{
	opt.deaf = strcmp(kind, "deaf") == 0;
	opt.stall_up = strcmp(kind, "up") == 0 || strcmp(kind, "both") == 0;
	opt.stall_down = strcmp(kind, "down") == 0 || strcmp(kind, "both") == 0;
	if (!opt.deaf && !opt.stall_up && !opt.stall_down)
		die("no such kind: %s", kind);
}

static void take_options(int argc, char **argv)
{
	static const struct option known[] = {
		{ "proxy", required_argument, NULL, 'p' }, { "origin", required_argument, NULL, 'o' },
		{ "user", required_argument, NULL, 'u' }, { "h1", no_argument, NULL, '1' },
		{ "streams", required_argument, NULL, 'n' }, { "bytes", required_argument, NULL, 'b' },
		{ "seconds", required_argument, NULL, 's' }, { "warmup", required_argument, NULL, 'w' },
		{ "window", required_argument, NULL, 'W' }, { "chain", no_argument, NULL, 'c' },
		{ "resume", no_argument, NULL, 'r' }, { "cancel", no_argument, NULL, 'C' }, { "kind", required_argument, NULL, 'k' },
		{ "ack", required_argument, NULL, 'a' }, { NULL, 0, NULL, 0 },
	};
	int letter;

	take_user("alice:right");
	opt.stall_up = opt.stall_down = true;
	while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (letter) {
		case 'p': opt.proxy = address(optarg); break;
		case 'o': opt.origin = optarg; break;
		case 'u': take_user(optarg); break;
		case '1': opt.h1 = true; break;
		case 'n': opt.streams = strtoul(optarg, NULL, 10); break;
		case 'b': opt.bytes = strtoull(optarg, NULL, 10); break;
		case 's': opt.seconds = strtod(optarg, NULL); break;
		case 'w': opt.warmup = strtod(optarg, NULL); break;
		case 'W': opt.window = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'c': opt.chain = true; break;
		case 'r': opt.resume = true; break;
		case 'C': opt.cancel = true; break;
		case 'k': take_kind(optarg); break;
		case 'a': opt.ack = strtoull(optarg, NULL, 10); break;
		default: exit(2);
		}
	}
	if (opt.proxy.sin_port == 0 || opt.origin == NULL || opt.streams == 0 || opt.ack == 0 || opt.bytes % opt.ack != 0)
		die("--proxy and --origin, and at least one stream; --bytes a multiple of --ack");
}

static void make_context(void)
{
	static const unsigned char alpn_h1[] = "\x08http/1.1", alpn_h2[] = "\x02h2";

	ctx = SSL_CTX_new(TLS_client_method());
	check(ctx != NULL && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
		SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") == 1, "SSL_CTX");
	check(SSL_CTX_set_alpn_protos(ctx, opt.h1 ? alpn_h1 : alpn_h2, opt.h1 ? 9 : 3) == 0, "ALPN");
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, CHUNK);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_session);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; enum mode mode; void (*run)(void); } modes[] = {
		{ "down", DOWN, transfer }, { "up", UP, transfer }, { "setup", SETUP, set_ups }, { "stall", STALL, stall },
	};

	make_pattern();
	(void)signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && strcmp(argv[1], "origin") == 0)
		return origin(argv[2]);
	for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++) {
		if (strcmp(argv[1], modes[i].name) != 0)
			continue;
		opt.mode = modes[i].mode;
		take_options(argc - 1, argv + 1);
		make_context();
		epoll = epoll_create1(EPOLL_CLOEXEC);
		modes[i].run();
		return 0;
	}
	(void)fprintf(stderr, "usage: h2_load origin HOST | h2_load down|up|setup|stall --proxy HOST:PORT --origin HOST:PORT ...\n");
	return 2;
}
