/* Listening.
 *
 * Workers share an address by SO_REUSEPORT. The first socket is bound without it and given it afterwards: a second
 * proxy on the same port is then told "address in use" instead of silently taking half of the connections. Only beside
 * an address of our own that overlaps it is the first one shared, too. */
#include "server/listener.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

enum { BACKLOG = 4096, ACCEPTS_PER_TURN = 64, PAUSE_MS = 100 };
enum { KEEPALIVE_IDLE_S = 60, KEEPALIVE_INTERVAL_S = 15, KEEPALIVE_COUNT = 4 };

struct listener {
	struct loop *loop;
	int fd;
	struct event *event;
	struct deadline pause;
	listener_fn *accept;
	void *ctx;

	/* on its way out */
	struct loop_task closing;
	int accepts_left;
	loop_fn *closed;
};

static bool set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

/* Accepted sockets inherit these. */
static bool set_options(int fd, const struct addr *a)
{
	return set(fd, SOL_SOCKET, SO_REUSEADDR, 1) && set(fd, IPPROTO_TCP, TCP_NODELAY, 1) &&
	       set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) && set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S) &&
	       set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S) &&
	       set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT) &&
	       (a->sa.sa_family != AF_INET6 || set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
}

static int open_socket(struct addr *a, bool exclusive)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 && errno == EAFNOSUPPORT && a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr)) {
		uint16_t port = addr_port(a);

		*a = (struct addr){ .in = { .sin_family = AF_INET, .sin_port = htons(port) }, .len = sizeof(a->in) };
		log_notice("listen: no IPv6 on this machine: [::]:%u means 0.0.0.0:%u", port, port);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	}
	if (fd < 0)
		return -1;
	if (!set_options(fd, a) || (!exclusive && !set(fd, SOL_SOCKET, SO_REUSEPORT, 1)) ||
	    bind(fd, &a->sa, a->len) != 0 || (exclusive && !set(fd, SOL_SOCKET, SO_REUSEPORT, 1))) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

static void learn_port(int fd, struct addr *a)
{
	struct sockaddr_storage bound;
	socklen_t n = sizeof(bound);
	struct addr real;

	if (addr_port(a) == 0 && getsockname(fd, (struct sockaddr *)&bound, &n) == 0 &&
	    addr_from_sockaddr(&real, (struct sockaddr *)&bound, n))
		addr_set_port(a, addr_port(&real));
}

static bool listen_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (listen(fds[i], BACKLOG) != 0)
			return false;
	return true;
}

bool listener_bind(struct addr *address, int *fds, size_t copies, bool exclusive, char *error, size_t error_size)
{
	char text[ADDR_TEXT_SIZE];
	size_t made = 0;
	int saved;

	for (; made < copies; made++) {
		fds[made] = open_socket(address, exclusive && made == 0);
		if (fds[made] < 0)
			break;
		learn_port(fds[made], address);
	}
	/* They listen at once: from here on the port is taken, and who connects waits in the queue. */
	if (made == copies && listen_all(fds, copies))
		return true;
	saved = errno;
	snprintf(error, error_size, "cannot listen on %s: %s%s", addr_text(address, text), strerror(saved),
	    saved == EADDRINUSE ? "; is another proxy running there? (ss -ltnp shows it)"
	    : saved == EACCES   ? "; ports below 1024 need root or CAP_NET_BIND_SERVICE; after a start as root: a restart"
	                        : "");
	while (made > 0)
		close(fds[--made]);
	errno = saved;
	return false;
}

static void on_pause_over(void *ctx)
{
	struct listener *l = ctx;

	if (event_add(l->event, NULL) != 0)
		(void)deadline_set(&l->pause, PAUSE_MS); /* the timer is there already */
}

/* No descriptors or memory: the queue waits in the kernel meanwhile. */
static void pause_accepting(struct listener *l, int error)
{
	static struct log_limit limit = LOG_LIMIT(10000);

	if (log_limit(&limit))
		log_err("accept: %s: pausing for %d ms%s", strerror(error), PAUSE_MS,
		    error == EMFILE || error == ENFILE ? "; raise the limit on open files or lower limits.connections" : "");
	if (deadline_set(&l->pause, PAUSE_MS))
		event_del(l->event);
}

/* False: nothing more to accept now. */
static bool accept_one(struct listener *l, int *error)
{
	struct sockaddr_storage from;
	socklen_t n = sizeof(from);
	struct addr peer;
	int fd = accept4(l->fd, (struct sockaddr *)&from, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

	*error = 0;
	if (fd >= 0) {
		if (addr_from_sockaddr(&peer, (struct sockaddr *)&from, n))
			l->accept(l->ctx, fd, &peer);
		else
			close(fd);
		return true;
	}
	if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO)
		return true;
	if (errno != EAGAIN && errno != EWOULDBLOCK)
		*error = errno;
	return false;
}

static void on_acceptable(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct listener *l = ctx;
	int error = 0;

	for (int i = 0; i < ACCEPTS_PER_TURN; i++)
		if (!accept_one(l, &error))
			break;
	if (error != 0)
		pause_accepting(l, error);
}

void listener_stop(struct listener *l)
{
	event_free(l->event);
	deadline_fini(&l->pause);
	loop_unpost(l->loop, &l->closing);
	close(l->fd);
	mem_free(l);
}

static void on_closing(void *ctx)
{
	struct listener *l = ctx;
	struct loop *loop = l->loop;
	loop_fn *closed = l->closed;
	int error = 0;

	ctx = l->ctx;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		if (l->accepts_left-- == 0 || !accept_one(l, &error)) {
			listener_stop(l);
			loop_release(loop);
			closed(ctx);
			return;
		}
	}
	loop_post(loop, &l->closing);
}

struct listener *listener_start(struct loop *loop, int fd, listener_fn *accept, void *ctx)
{
	struct listener *l = mem_alloc(sizeof(*l));

	if (!l)
		return NULL;
	*l = (struct listener){ .loop = loop, .fd = fd, .accept = accept, .ctx = ctx };
	deadline_init(&l->pause, loop, on_pause_over, l);
	loop_task_init(&l->closing, on_closing, l);
	l->event = event_new(loop_base(loop), fd, EV_READ | EV_PERSIST, on_acceptable, l);
	if (!l->event || event_add(l->event, NULL) != 0) {
		if (l->event)
			event_free(l->event);
		mem_free(l);
		return NULL;
	}
	return l;
}

void listener_close(struct listener *l, loop_fn *closed)
{
	event_del(l->event);
	deadline_clear(&l->pause);
	l->accepts_left = BACKLOG;
	l->closed = closed;
	loop_hold(l->loop);
	loop_post(l->loop, &l->closing);
}
