/* What all streams share: pause bits, bytes given back, notifications, one close. */
#include "adit/stream/stream.h"

#include "adit/base/mem.h"

#define STREAM_MAGIC OBJ_MAGIC('s', 't', 'r', 'm')

static void on_wake(void *ctx)
{
	struct stream *s;

	OBJ_CAST(s, ctx, STREAM_MAGIC);
	stream_notify_readable(s);
}

void stream_init(struct stream *s, const struct stream_ops *ops, struct loop *loop)
{
	OBJ_INIT(s, STREAM_MAGIC);
	s->ops = ops;
	s->loop = loop;
	s->pause = STREAM_PAUSE_IDLE;
	loop_task_init(&s->wake, on_wake, s);
	loop_hold(loop);
}

void stream_attach(struct stream *s, const struct stream_handler *handler, void *ctx)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	s->handler = handler;
	s->ctx = ctx;
}

/* Something to read that no descriptor event will announce. */
static bool waits_above(const struct stream *s)
{
	return s->unread || s->eof || s->fault != STREAM_FAULT_NONE || (s->ops->pending && s->ops->pending(s));
}

static enum stream_io read_unread(struct stream *s, void *buf, size_t size, size_t *n)
{
	size_t left = s->unread_n - s->unread_at;

	*n = left < size ? left : size;
	memcpy(buf, s->unread + s->unread_at, *n);
	s->unread_at += *n;
	if (s->unread_at == s->unread_n) {
		mem_burn(s->unread, s->unread_n);
		mem_free(s->unread);
		s->unread = NULL;
		/* The caller may take these few bytes for all there is. */
		if (waits_above(s))
			stream_more(s);
	}
	return STREAM_IO_OK;
}

enum stream_io stream_read(struct stream *s, void *buf, size_t size, size_t *n)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	*n = 0;
	ADIT_ASSERT(!s->closing && size > 0);
	if (s->unread)
		return read_unread(s, buf, size, n);
	if (s->fault != STREAM_FAULT_NONE)
		return STREAM_IO_ERROR;
	if (s->eof)
		return STREAM_IO_EOF;
	return s->ops->read(s, buf, size, n);
}

unsigned stream_peek(struct stream *s, struct iovec *v, unsigned most)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	return s->ops->peek && !s->unread && s->fault == STREAM_FAULT_NONE ? s->ops->peek(s, v, most) : 0;
}

void stream_skip(struct stream *s, size_t n)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	s->ops->skip(s, n);
}

void stream_more(struct stream *s)
{
	if (s->pause == 0 && !s->closing)
		loop_post(s->loop, &s->wake);
}

void stream_read_on(struct stream *s)
{
	s->deaf = true;
	s->fault = STREAM_FAULT_NONE;
	stream_more(s);
}

bool stream_unread(struct stream *s, const void *data, size_t n)
{
	if (n == 0)
		return true;
	if (s->unread) {
		ADIT_ASSERT(n <= s->unread_at); /* they were read from there */
		s->unread_at -= n;
		memcpy(s->unread + s->unread_at, data, n);
		stream_more(s);
		return true;
	}
	s->unread = mem_strndup(data, n);
	if (!s->unread)
		return false;
	s->unread_n = n;
	s->unread_at = 0;
	stream_more(s);
	return true;
}

bool stream_write(struct stream *s, const void *data, size_t n)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	ADIT_ASSERT(!s->closing && !s->finishing);
	if (s->fault != STREAM_FAULT_NONE || s->deaf)
		return false;
	return n == 0 || s->ops->write(s, data, n);
}

bool stream_write_vec(struct stream *s, const struct iovec *v, unsigned count)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	ADIT_ASSERT(!s->closing && !s->finishing);
	return s->fault == STREAM_FAULT_NONE && !s->deaf && s->ops->write_vec(s, v, count);
}

bool stream_gathers(const struct stream *s)
{
	return s->ops->write_vec;
}

bool stream_write_over(struct stream *s, char *data, size_t n)
{
	if (!s->ops->write_over || n == 0)
		return stream_write(s, data, n);
	OBJ_CHECK(s, STREAM_MAGIC);
	ADIT_ASSERT(!s->closing && !s->finishing);
	return s->fault == STREAM_FAULT_NONE && !s->deaf && s->ops->write_over(s, data, n);
}

size_t stream_headroom(const struct stream *s)
{
	return s->ops->write_over ? STREAM_HEADROOM : 0;
}

void stream_cork(struct stream *s, bool on)
{
	if (s->ops->cork)
		s->ops->cork(s, on);
}

size_t stream_queued(const struct stream *s)
{
	return s->ops->queued(s);
}

size_t stream_room(struct stream *s)
{
	return s->ops->room ? s->ops->room(s) : SIZE_MAX;
}

void stream_finish(struct stream *s)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	if (s->finishing || s->closing)
		return;
	s->finishing = true;
	s->ops->finish(s);
}

void stream_pause(struct stream *s, unsigned bits)
{
	unsigned before = s->pause;

	s->pause |= bits;
	if (before == 0 && s->pause != 0) {
		s->ops->watch(s, false);
		loop_unpost(s->loop, &s->wake);
	}
}

void stream_resume(struct stream *s, unsigned bits)
{
	unsigned before = s->pause;

	s->pause &= ~bits;
	if (before == 0 || s->pause != 0)
		return;
	s->ops->watch(s, true);
	if (waits_above(s))
		stream_more(s);
}

void stream_secret(struct stream *s, bool on)
{
	if (s->ops->secret)
		s->ops->secret(s, on);
}

void stream_ahead(struct stream *s, bool on)
{
	if (s->ops->ahead)
		s->ops->ahead(s, on);
}

unsigned stream_rtt_us(const struct stream *s)
{
	return s->ops->rtt_us ? s->ops->rtt_us(s) : 0;
}

enum stream_fault stream_fault(const struct stream *s)
{
	return s->fault;
}

bool stream_truncated(const struct stream *s)
{
	return s->truncated;
}

void stream_on_closed(struct stream *s, loop_fn *closed, void *ctx)
{
	s->closed = closed;
	s->closed_ctx = ctx;
}

void stream_close(struct stream *s, enum stream_close how)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	ADIT_ASSERT(!s->closing);
	s->closing = true;
	s->handler = NULL;
	loop_unpost(s->loop, &s->wake);
	if (s->unread) {
		mem_burn(s->unread, s->unread_n);
		mem_free(s->unread);
		s->unread = NULL;
	}
	s->ops->close(s, how);
}

void stream_notify_readable(struct stream *s)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	if (s->handler && s->pause == 0)
		s->handler->on_readable(s->ctx);
}

void stream_notify_drained(struct stream *s)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	if (s->handler)
		s->handler->on_drained(s->ctx);
}

void stream_notify_fault(struct stream *s, enum stream_fault fault)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	if (s->fault == STREAM_FAULT_NONE)
		s->fault = fault;
	if (s->handler)
		s->handler->on_fault(s->ctx);
}

void stream_closed(struct stream *s)
{
	OBJ_CHECK(s, STREAM_MAGIC);
	loop_release(s->loop);
	if (s->closed)
		s->closed(s->closed_ctx);
	OBJ_FINI(s);
}
