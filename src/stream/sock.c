/* The socket under a stream.
 *
 * Hard part: closing. A socket that is closed while input waits sends RST, and the RST can overtake the answer that was
 * just written. So a flushing close sends FIN and then reads and drops until the peer ends, a deadline or a budget.
 * bufferevent_free only begins to free; the graveyard closes the descriptor, a pass later, and calls `closed`. */
#include "adit/stream/sock.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

enum { DISCARD_MAX_BYTES = 64 * 1024 };

enum stream_fault sock_fault_of(int error)
{
	switch (error) {
	case ECONNRESET:
	case EPIPE:
	case ECONNABORTED:
		return STREAM_FAULT_RESET;
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return STREAM_FAULT_TIMEOUT;
	case ENOMEM:
	case ENOBUFS:
		return STREAM_FAULT_MEMORY;
	default:
		return STREAM_FAULT_OTHER;
	}
}

static void on_grave(void *ctx)
{
	struct sock *k = ctx;

	close(k->fd);
	k->fd = -1;
	k->callbacks->closed(k->ctx);
}

static void disarm(struct sock *k)
{
	if (k->armed)
		event_del(&k->read_event);
	k->armed = false;
}

static void end(struct sock *k)
{
	if (k->ended)
		return;
	k->ended = true;
	deadline_fini(&k->linger);
	disarm(k);
	loop_unpost(k->loop, &k->settled);
	loop_unpost(k->loop, &k->news);
	if (k->bev) {
		bufferevent_setcb(k->bev, NULL, NULL, NULL, NULL);
		bufferevent_free(k->bev);
		k->bev = NULL;
	}
	loop_bury(k->loop, &k->grave, on_grave, k);
}

static void discard(struct sock *k)
{
	char waste[4096];
	ssize_t r;

	do {
		r = recv(k->fd, waste, sizeof(waste), 0);
		if (r > 0)
			k->discarded += (size_t)r;
	} while ((r > 0 && k->discarded < DISCARD_MAX_BYTES) || (r < 0 && errno == EINTR));
	if (r >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
		end(k); /* the end, a fault, or enough */
}

static void broken(struct sock *k, enum stream_fault fault)
{
	k->faulted = true;
	if (k->closing)
		end(k);
	else
		k->callbacks->fault(k->ctx, fault);
}

/* A paused side is not deaf for all: its RST is news, while a FIN behind unread bytes is not. */
static void look_for_reset(struct sock *k)
{
	char byte;

	if (k->faulted || recv(k->fd, &byte, 1, MSG_PEEK) >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return;
	broken(k, sock_fault_of(errno));
}

static void on_readable(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct sock *k = ctx;

	if (!k->wanted) {
		disarm(k);
		look_for_reset(k);
	} else if (k->discarding) {
		discard(k);
	} else {
		k->callbacks->readable(k->ctx);
	}
}

/* The queue is empty: FIN if wanted, then the news. */
static void drained(struct sock *k)
{
	if (k->finish_wanted && !k->finished) {
		k->finished = true;
		shutdown(k->fd, SHUT_WR);
	}
	if (!k->closing)
		k->callbacks->drained(k->ctx);
	else if (!k->discarding) {
		k->discarding = true;
		sock_watch(k, true);
	}
}

static void on_settled(void *ctx)
{
	struct sock *k = ctx;

	if (k->deaf && !k->armed && !k->faulted)
		broken(k, STREAM_FAULT_MEMORY);
	else if (sock_queued(k) == 0 && (k->finish_wanted || k->closing))
		drained(k);
}

static void on_written(struct bufferevent *bev ADIT_UNUSED, void *ctx)
{
	struct sock *k = ctx;

	loop_post(k->loop, &k->news);
}

static void on_event(struct bufferevent *bev ADIT_UNUSED, short what, void *ctx)
{
	struct sock *k = ctx;
	int error = EVUTIL_SOCKET_ERROR();

	if (!(what & (BEV_EVENT_ERROR | BEV_EVENT_EOF)))
		return;
	k->faulted = true;
	k->error = error != 0 ? error : EIO;
	loop_post(k->loop, &k->news);
}

/* Libevent's own deferred callbacks would do, but the error must be known to a read that comes before them. */
static void on_news(void *ctx)
{
	struct sock *k = ctx;

	if (k->error != 0)
		broken(k, sock_fault_of(k->error));
	else if (sock_queued(k) == 0)
		drained(k);
}

static void on_linger(void *ctx)
{
	end(ctx);
}

bool sock_init(struct sock *k, struct loop *loop, int fd, const struct sock_callbacks *callbacks, void *ctx)
{
	*k = (struct sock){ .loop = loop, .fd = fd, .callbacks = callbacks, .ctx = ctx };
	deadline_init(&k->linger, loop, on_linger, k);
	loop_task_init(&k->settled, on_settled, k);
	loop_task_init(&k->news, on_news, k);
	return event_assign(&k->read_event, loop_base(loop), fd, EV_READ | EV_PERSIST, on_readable, k) == 0;
}

static bool queue(struct sock *k, const char *p, size_t n)
{
	if (!k->bev) {
		k->bev = bufferevent_socket_new(loop_base(k->loop), k->fd, 0);
		if (!k->bev)
			return false;
		bufferevent_setcb(k->bev, NULL, on_written, on_event, k);
	}
	return evbuffer_add(bufferevent_get_output(k->bev), p, n) == 0;
}

enum stream_io sock_read(struct sock *k, void *buf, size_t size, size_t *n, enum stream_fault *fault)
{
	ssize_t r;

	do
		r = recv(k->fd, buf, size, 0);
	while (r < 0 && errno == EINTR);
	if (r > 0) {
		*n = (size_t)r;
		return STREAM_IO_OK;
	}
	/* A failed send of the queue has taken a reset's error with it, and recv says "end". EPIPE: the reset came
	 * behind the peer's proper end, which this is. */
	if (r == 0 && k->error != 0 && k->error != EPIPE) {
		*fault = sock_fault_of(k->error);
		return STREAM_IO_ERROR;
	}
	if (r == 0)
		return STREAM_IO_EOF;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return STREAM_IO_AGAIN;
	*fault = sock_fault_of(errno);
	return STREAM_IO_ERROR;
}

/* What the kernel takes of it; 0: nothing now. */
static ssize_t send_some(struct sock *k, const struct iovec *v, unsigned count)
{
	ssize_t r;

	do
		r = count == 1 ? send(k->fd, v->iov_base, v->iov_len, MSG_NOSIGNAL) : writev(k->fd, v, (int)count);
	while (r < 0 && errno == EINTR);
	return r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : r;
}

bool sock_write_vec(struct sock *k, const struct iovec *v, unsigned count, enum stream_fault *fault)
{
	ssize_t sent = 0;

	ADIT_ASSERT(!k->finish_wanted);
	if (k->faulted) {
		*fault = STREAM_FAULT_RESET;
		return false;
	}
	/* once: after a short write the kernel is full, and asking again would only say so */
	if (sock_queued(k) == 0)
		sent = send_some(k, v, count);
	if (sent < 0) {
		*fault = sock_fault_of(errno);
		return false;
	}
	for (size_t skip = (size_t)sent; count > 0; v++, count--) {
		size_t n = v->iov_len < skip ? v->iov_len : skip;

		skip -= n;
		if (n < v->iov_len && !queue(k, (const char *)v->iov_base + n, v->iov_len - n)) {
			*fault = STREAM_FAULT_MEMORY;
			return false;
		}
	}
	return true;
}

bool sock_write(struct sock *k, const void *data, size_t n, enum stream_fault *fault)
{
	struct iovec v = { .iov_base = (void *)(uintptr_t)data, .iov_len = n };

	return sock_write_vec(k, &v, 1, fault);
}

unsigned sock_rtt_us(const struct sock *k)
{
	struct tcp_info info;
	socklen_t n = sizeof(info);

	return getsockopt(k->fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 ? info.tcpi_rtt : 0;
}

size_t sock_queued(const struct sock *k)
{
	return k->bev ? evbuffer_get_length(bufferevent_get_output(k->bev)) : 0;
}

void sock_finish(struct sock *k)
{
	if (k->finish_wanted)
		return;
	k->finish_wanted = true;
	if (sock_queued(k) == 0)
		loop_post(k->loop, &k->settled);
}

void sock_watch(struct sock *k, bool on)
{
	/* Most pauses end before anything arrives: the event stays until it fires in vain, which saves two epoll_ctl. */
	k->wanted = on;
	if (!on || k->armed)
		return;
	k->armed = event_add(&k->read_event, NULL) == 0;
	k->deaf = !k->armed;
	if (k->deaf)
		loop_post(k->loop, &k->settled); /* told from the loop, for this is the caller's own call */
}

void sock_close(struct sock *k, enum stream_close how, bool peer_ended, unsigned linger_ms)
{
	ADIT_ASSERT(!k->closing);
	k->closing = true;
	sock_watch(k, false);
	if (how == STREAM_CLOSE_ABORT || k->faulted) {
		struct linger reset = { .l_onoff = 1, .l_linger = 0 };

		setsockopt(k->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		end(k);
		return;
	}
	if (peer_ended && sock_queued(k) == 0) {
		end(k); /* close sends the FIN */
		return;
	}
	k->finish_wanted = true;
	if (!deadline_set(&k->linger, linger_ms)) {
		end(k);
		return;
	}
	if (sock_queued(k) == 0)
		drained(k);
}
