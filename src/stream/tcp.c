/* Streams over plain TCP. */
#include "adit/stream/tcp.h"

#include "adit/base/mem.h"
#include "adit/stream/sock.h"

struct tcp_stream {
	struct stream base;
	struct sock sock;
	unsigned linger_ms;
};

static struct tcp_stream *of(const struct stream *s)
{
	return OBJ_OF(s, struct tcp_stream, base);
}

static enum stream_io tcp_read(struct stream *s, void *buf, size_t size, size_t *n)
{
	enum stream_io io = sock_read(&of(s)->sock, buf, size, n, &s->fault);

	if (io == STREAM_IO_EOF)
		s->eof = true;
	return io;
}

static bool tcp_write(struct stream *s, const void *data, size_t n)
{
	return sock_write(&of(s)->sock, data, n, &s->fault);
}

static bool tcp_write_vec(struct stream *s, const struct iovec *v, unsigned count)
{
	return sock_write_vec(&of(s)->sock, v, count, &s->fault);
}

static size_t tcp_queued(const struct stream *s)
{
	return sock_queued(&of(s)->sock);
}

static void tcp_finish(struct stream *s)
{
	sock_finish(&of(s)->sock);
}

static void tcp_watch(struct stream *s, bool on)
{
	sock_watch(&of(s)->sock, on);
}

static void tcp_close(struct stream *s, enum stream_close how)
{
	struct tcp_stream *t = of(s);

	sock_close(&t->sock, how, s->eof, t->linger_ms);
}

static const struct stream_ops tcp_ops = {
	.read = tcp_read,
	.write = tcp_write,
	.write_vec = tcp_write_vec,
	.queued = tcp_queued,
	.finish = tcp_finish,
	.watch = tcp_watch,
	.close = tcp_close,
};

static void on_readable(void *ctx)
{
	stream_notify_readable(&((struct tcp_stream *)ctx)->base);
}

static void on_drained(void *ctx)
{
	stream_notify_drained(&((struct tcp_stream *)ctx)->base);
}

static void on_fault(void *ctx, enum stream_fault fault)
{
	stream_notify_fault(&((struct tcp_stream *)ctx)->base, fault);
}

static void on_closed(void *ctx)
{
	struct tcp_stream *t = ctx;

	stream_closed(&t->base);
	mem_free(t);
}

static const struct sock_callbacks sock_callbacks = { on_readable, on_drained, on_fault, on_closed };

struct stream *tcp_stream_new(struct loop *loop, int fd, unsigned linger_ms)
{
	struct tcp_stream *t = mem_alloc(sizeof(*t));

	if (!t)
		return NULL;
	if (!sock_init(&t->sock, loop, fd, &sock_callbacks, t)) {
		mem_free(t);
		return NULL;
	}
	t->linger_ms = linger_ms;
	stream_init(&t->base, &tcp_ops, loop);
	return &t->base;
}
