/* A scripted stream. Readiness is level-triggered, as a descriptor's is. */
#include "component/mem_stream.h"

#include <stdlib.h>

static unsigned fins;

static struct mem_stream *of(const struct stream *s)
{
	return OBJ_OF(s, struct mem_stream, base);
}

/* Room for n bytes and a NUL goes in powers of two, so that many small pieces are not copied again and again. */
static size_t room_for(size_t n)
{
	size_t size = 64;

	while (size <= n)
		size *= 2;
	return size;
}

static void append(char **to, size_t *to_n, const void *data, size_t n)
{
	char *grown = *to && room_for(*to_n) == room_for(*to_n + n) ? *to : realloc(*to, room_for(*to_n + n));

	ADIT_ASSERT(grown);
	if (n > 0)
		memcpy(grown + *to_n, data, n);
	*to = grown;
	*to_n += n;
	grown[*to_n] = '\0';
}

static void remove_head(char *p, size_t *n, size_t by)
{
	if (by > 0)
		memmove(p, p + by, *n - by);
	*n -= by;
}

static bool something_to_read(const struct mem_stream *m)
{
	return m->in_n > 0 || m->in_eof || m->in_fault != STREAM_FAULT_NONE;
}

static void announce(struct mem_stream *m)
{
	if (m->watching && something_to_read(m))
		loop_post(m->base.loop, &m->readable);
}

/* --- operations --- */

static enum stream_io op_read(struct stream *s, void *buf, size_t size, size_t *n)
{
	struct mem_stream *m = of(s);

	m->reads++;
	if (m->in_n > 0) {
		*n = size < m->in_n ? size : m->in_n;
		if (m->read_max > 0 && *n > m->read_max)
			*n = m->read_max;
		memcpy(buf, m->in + m->in_at, *n);
		m->in_at += *n;
		m->in_n -= *n;
		if (!m->above)
			announce(m);
		else if (m->in_n == 0 && something_to_read(m))
			stream_more(s); /* as TLS does for what came behind the bytes */
		return STREAM_IO_OK;
	}
	if (m->in_fault != STREAM_FAULT_NONE) {
		s->fault = m->in_fault;
		return STREAM_IO_ERROR;
	}
	if (m->in_eof) {
		s->eof = true;
		s->truncated = m->in_truncated;
		return STREAM_IO_EOF;
	}
	return STREAM_IO_AGAIN;
}

static unsigned op_peek(struct stream *s, struct iovec *v, unsigned most)
{
	struct mem_stream *m = of(s);
	unsigned count = 0;
	size_t n = 0;

	while (m->piece > 0 && count < most && n < m->in_n) {
		size_t here = m->in_n - n < m->piece ? m->in_n - n : m->piece;

		v[count++] = (struct iovec){ m->in + m->in_at + n, here };
		n += here;
	}
	return count;
}

static void op_skip(struct stream *s, size_t n)
{
	struct mem_stream *m = of(s);

	ADIT_ASSERT(n <= m->in_n);
	m->in_at += n;
	m->in_n -= n;
	if (!m->above)
		announce(m);
	else if (m->in_n == 0 && something_to_read(m))
		stream_more(s);
}

static bool op_write(struct stream *s, const void *data, size_t n)
{
	struct mem_stream *m = of(s);
	size_t now = m->queue_n > 0 ? 0 : n < m->window ? n : m->window;

	ADIT_ASSERT(!m->finish_wanted);
	if (m->refuse) {
		s->fault = STREAM_FAULT_RESET;
		return false;
	}
	append(&m->out, &m->out_n, data, now);
	append(&m->queue, &m->queue_n, (const char *)data + now, n - now);
	if (m->queue_n > m->queued_most)
		m->queued_most = m->queue_n;
	return true;
}

static bool op_write_vec(struct stream *s, const struct iovec *v, unsigned count)
{
	bool good = true;

	for (; good && count > 0; v++, count--)
		good = op_write(s, v->iov_base, v->iov_len);
	return good;
}

static size_t op_queued(const struct stream *s)
{
	return of(s)->queue_n;
}

static void op_finish(struct stream *s)
{
	struct mem_stream *m = of(s);

	m->finish_wanted = true;
	if (m->queue_n == 0)
		loop_post(s->loop, &m->drained);
}

static void op_watch(struct stream *s, bool on)
{
	struct mem_stream *m = of(s);

	m->watching = on;
	if (!on)
		loop_unpost(s->loop, &m->readable);
	else if (!m->above)
		announce(m);
}

static bool op_pending(const struct stream *s)
{
	return of(s)->above && something_to_read(of(s));
}

static void op_secret(struct stream *s, bool on)
{
	of(s)->secret = on;
}

static unsigned op_rtt_us(const struct stream *s)
{
	return of(s)->rtt_us;
}

static void on_grave(void *ctx)
{
	struct mem_stream *m = ctx;

	m->gone = true;
	stream_closed(&m->base);
}

static void bury(struct mem_stream *m)
{
	if (m->buried)
		return;
	m->buried = true;
	loop_bury(m->base.loop, &m->grave, on_grave, m);
}

static void fin_leaves(struct mem_stream *m)
{
	if (m->fin)
		return;
	m->fin = true;
	m->fin_order = ++fins;
}

static void op_close(struct stream *s, enum stream_close how)
{
	struct mem_stream *m = of(s);

	m->closed = true;
	m->how = how;
	m->watching = false;
	loop_unpost(s->loop, &m->readable);
	loop_unpost(s->loop, &m->drained);
	loop_unpost(s->loop, &m->fault);
	if (how != STREAM_CLOSE_ABORT && !m->refuse && s->fault == STREAM_FAULT_NONE) {
		if (m->queue_n > 0)
			return; /* mem_drain ends it */
		fin_leaves(m);
	}
	bury(m);
}

static const struct stream_ops mem_ops = {
	.read = op_read,
	.peek = op_peek,
	.skip = op_skip,
	.write = op_write,
	.write_vec = op_write_vec,
	.queued = op_queued,
	.finish = op_finish,
	.watch = op_watch,
	.pending = op_pending,
	.secret = op_secret,
	.rtt_us = op_rtt_us,
	.close = op_close,
};

/* --- from the loop --- */

static void on_readable(void *ctx)
{
	struct mem_stream *m = ctx;

	if (!m->above)
		announce(m); /* stays readable until it was read */
	stream_notify_readable(&m->base);
}

static void on_drained(void *ctx)
{
	struct mem_stream *m = ctx;

	if (m->queue_n > 0)
		return;
	if (m->finish_wanted)
		fin_leaves(m);
	stream_notify_drained(&m->base);
}

static void on_fault(void *ctx)
{
	struct mem_stream *m = ctx;

	stream_notify_fault(&m->base, m->fault_to_tell);
}

/* --- the far end --- */

struct mem_stream *mem_stream_new(struct loop *loop)
{
	struct mem_stream *m = calloc(1, sizeof(*m));

	ADIT_ASSERT(m);
	m->window = SIZE_MAX;
	append(&m->out, &m->out_n, NULL, 0);
	loop_task_init(&m->readable, on_readable, m);
	loop_task_init(&m->drained, on_drained, m);
	loop_task_init(&m->fault, on_fault, m);
	stream_init(&m->base, &mem_ops, loop);
	return m;
}

void mem_stream_free(struct mem_stream *m)
{
	if (!m)
		return;
	ADIT_ASSERT(m->gone);
	free(m->in);
	free(m->queue);
	free(m->out);
	free(m);
}

void mem_feed(struct mem_stream *m, const void *data, size_t n)
{
	if (m->in_at > 0 && m->in_n > 0)
		memmove(m->in, m->in + m->in_at, m->in_n);
	m->in_at = 0;
	append(&m->in, &m->in_n, data, n);
	announce(m);
}

void mem_feed_text(struct mem_stream *m, const char *text)
{
	mem_feed(m, text, strlen(text));
}

void mem_feed_eof(struct mem_stream *m, bool truncated)
{
	m->in_eof = true;
	m->in_truncated = truncated;
	announce(m);
}

void mem_feed_fault(struct mem_stream *m, enum stream_fault fault)
{
	m->in_fault = fault;
	announce(m);
}

void mem_break(struct mem_stream *m, enum stream_fault fault)
{
	m->fault_to_tell = fault;
	m->refuse = true;
	if (!m->closed)
		loop_post(m->base.loop, &m->fault);
}

void mem_drain(struct mem_stream *m, size_t n)
{
	if (m->buried)
		return;
	if (n > m->queue_n)
		n = m->queue_n;
	append(&m->out, &m->out_n, m->queue, n);
	remove_head(m->queue, &m->queue_n, n);
	if (m->queue_n > 0 || n == 0)
		return;
	if (m->closed) {
		fin_leaves(m);
		bury(m);
	} else {
		loop_post(m->base.loop, &m->drained);
	}
}
