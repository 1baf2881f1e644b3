/* Bodies over a stream of bytes.
 *
 *     reading:  NOTHING -> HEAD -> BODY -> OVER        a response; HEAD again behind each interim one
 *     reading:  NOTHING -> [HELD ->] BODY -> OVER      a request
 *     101:      HEAD -> BODY, HELD -> BODY             and the body is whatever comes, both ways
 *
 * What is hard is the end. Bytes behind a request's body are the next request's head, with a password perhaps: they are
 * given back to the wire and wiped here. Bytes behind a response's are nobody's, and spoil the connection. And that a
 * client has left while it waits for its answer can be noticed only by reading, so the wire is read then, too. */
#include "adit/http/message.h"

#include "adit/base/mem.h"

enum {
	HEAD_FIRST_BYTES = 4096,
	COMPOSE_BYTES = 16 * 1024, /* what goes out with its frame in one write; larger pieces are not copied */
	INTERIM_MAX = 200, /* heads before the final one */
};

enum reading { NOTHING, HEAD, BODY, HELD, OVER };

struct message {
	struct stream base;
	struct stream *wire;
	const struct message_events *events;
	void *ctx;
	enum reading reading;
	bool request; /* it is a request that comes in */
	bool wanted; /* somebody wants to read the body */
	bool begun; /* a byte has come in */
	bool more; /* bytes came behind the end */
	bool switched;
	bool cut; /* what went out ended before its length, or could not be sent */
	struct head_limits limits;
	enum head_method method;
	struct response_parser parser;
	unsigned interims;
	char *head;
	size_t head_n, head_size;
	struct body_reader reader;
	struct body_writer writer;
	struct loop_task settled;
	struct loop_grave grave;
};

static struct message *of(const struct stream *s)
{
	return OBJ_OF(s, struct message, base);
}

static bool listens_for_leaving(const struct message *m)
{
	return m->request && !m->switched && !m->more && !m->base.finishing &&
	       (m->reading == HELD || m->reading == OVER);
}

/* The wire is read while the body is wanted, and behind the request for the client's leaving. */
static void update_wire(struct message *m)
{
	bool on = listens_for_leaving(m) || (m->wanted && (m->reading == HEAD || m->reading == BODY));

	if (on && m->base.fault == STREAM_FAULT_NONE)
		stream_resume(m->wire, STREAM_PAUSE_IDLE);
	else
		stream_pause(m->wire, STREAM_PAUSE_IDLE);
}

static void set_reading(struct message *m, enum reading reading)
{
	m->reading = reading;
	update_wire(m);
}

/* --- faults --- */

static enum stream_fault break_for(struct message *m, enum reason why)
{
	if (m->events->broken)
		m->events->broken(m->ctx, why);
	return why == REASON_NO_MEMORY ? STREAM_FAULT_MEMORY : STREAM_FAULT_OTHER;
}

static enum stream_io bad(struct message *m, enum reason why)
{
	m->base.fault = break_for(m, why);
	return STREAM_IO_ERROR;
}

/* The wire has ended, or is broken, amid the message. */
static enum stream_io wire_ended(struct message *m, enum stream_io io)
{
	if (io == STREAM_IO_EOF)
		return bad(m, m->request ? REASON_CLIENT_GONE : REASON_RESPONSE_INCOMPLETE);
	if (io == STREAM_IO_ERROR)
		m->base.fault = m->wire->fault;
	return io;
}

/* --- the end of what comes in --- */

/* The last n bytes at p were behind the end. */
static bool give_back(struct message *m, char *p, size_t n)
{
	bool good = stream_unread(m->wire, p, n);

	m->more |= n > 0;
	mem_burn(p, n);
	return good;
}

static enum stream_io over(struct message *m)
{
	m->base.eof = true;
	m->base.truncated = m->wire->truncated;
	m->more |= m->wire->unread != NULL;
	set_reading(m, OVER);
	if (m->events->ended && !m->events->ended(m->ctx, body_trailers(&m->reader)))
		return bad(m, REASON_NO_MEMORY);
	return STREAM_IO_EOF;
}

/* Behind the request: a byte is the next one's, and there is no more to learn. A good-bye (close_notify) leaves it open
 * whether somebody waits for the answer; a connection that just ends does not. */
static void listen_for_leaving(struct message *m)
{
	char bytes[256];
	size_t n = 0;
	enum stream_io io = stream_read(m->wire, bytes, sizeof(bytes), &n);
	enum stream_fault fault;

	if (io == STREAM_IO_AGAIN)
		return;
	if (io == STREAM_IO_OK || (io == STREAM_IO_EOF && !m->wire->truncated)) {
		m->more = true;
		update_wire(m);
		if (give_back(m, bytes, n))
			return;
		fault = break_for(m, REASON_NO_MEMORY);
	} else {
		fault = io == STREAM_IO_EOF ? break_for(m, REASON_CLIENT_GONE) : m->wire->fault;
	}
	m->base.fault = fault;
	update_wire(m);
	stream_notify_fault(&m->base, fault);
}

/* --- heads of responses --- */

static void free_head(struct message *m)
{
	mem_free(m->head);
	m->head = NULL;
	m->head_n = m->head_size = 0;
}

static bool make_room(struct message *m)
{
	size_t size = m->head_size == 0 ? HEAD_FIRST_BYTES : 2 * m->head_size;
	char *head;

	if (m->head_n < m->head_size)
		return true;
	if (size > m->limits.head_bytes)
		size = m->limits.head_bytes;
	ADIT_ASSERT(size > m->head_n); /* the parser decides before the buffer is full */
	head = mem_resize(m->head, size, 1);
	if (!head)
		return false;
	m->head = head;
	m->head_size = size;
	return true;
}

/* OK: the body follows. */
static enum stream_io take_head(struct message *m, const struct response_head *head)
{
	size_t rest = m->head_n - head->head_bytes;
	char *behind = m->head + head->head_bytes;

	if (m->events->head && !m->events->head(m->ctx, head)) {
		if (m->base.fault == STREAM_FAULT_NONE)
			m->base.fault = STREAM_FAULT_OTHER;
		return STREAM_IO_ERROR;
	}
	if (head->status < 200 && !head->upgrade) {
		if (++m->interims > INTERIM_MAX)
			return bad(m, REASON_RESPONSE_TOO_LARGE);
		/* One in each turn: whoever passes it on may have to wait. */
		memmove(m->head, behind, rest);
		m->head_n = rest;
		response_parser_init(&m->parser, m->method);
		stream_more(&m->base);
		return STREAM_IO_AGAIN;
	}
	if (!stream_unread(m->wire, behind, rest))
		return bad(m, REASON_NO_MEMORY);
	body_reader_init(&m->reader, head->framing, m->limits.head_bytes);
	if (head->upgrade)
		message_switch(&m->base);
	free_head(m);
	set_reading(m, BODY);
	return STREAM_IO_OK;
}

static enum stream_io read_head(struct message *m)
{
	struct response_head head;
	enum stream_io io;
	enum reason why;
	size_t n = 0;

	for (;;) {
		if (m->head_n > 0) {
			switch (response_parse(&m->parser, m->head, m->head_n, &m->limits, &head, &why)) {
			case HEAD_DONE:
				return take_head(m, &head);
			case HEAD_BAD:
				return bad(m, why);
			case HEAD_PARTIAL:
				break;
			}
		}
		if (!make_room(m))
			return bad(m, REASON_NO_MEMORY);
		io = stream_read(m->wire, m->head + m->head_n, m->head_size - m->head_n, &n);
		if (io != STREAM_IO_OK)
			return wire_ended(m, io);
		m->begun = true;
		m->head_n += n;
	}
}

/* --- bodies --- */

static bool is_at_end(const struct message *m)
{
	return m->reader.framing.kind != FRAMING_CLOSE && body_end(&m->reader) == BODY_DONE;
}

static enum stream_io read_body(struct message *m, char *buf, size_t size, size_t *n)
{
	size_t got = 0, data, rest;
	enum body_status status;
	enum stream_io io;
	enum reason why;

	if (is_at_end(m))
		return over(m);
	if (m->reader.framing.kind == FRAMING_LENGTH && m->reader.left < size)
		size = (size_t)m->reader.left; /* what follows stays where it is */
	io = stream_read(m->wire, buf, size, &got);
	/* An end that only follows upon a reset is none that was meant. */
	if (io == STREAM_IO_EOF && body_end(&m->reader) == BODY_DONE && !m->wire->deaf)
		return over(m);
	if (io != STREAM_IO_OK)
		return wire_ended(m, io);
	m->begun = true;
	status = body_decode(&m->reader, buf, got, &data, &rest, &why);
	if (status == BODY_BAD)
		return bad(m, m->request || why == REASON_NO_MEMORY ? why : REASON_RESPONSE_INVALID);
	if (!give_back(m, buf + rest, got - rest))
		return bad(m, REASON_NO_MEMORY);
	if (status == BODY_DONE) {
		io = over(m);
		if (io == STREAM_IO_ERROR || data == 0)
			return io;
	} else if (data == 0) {
		stream_more(&m->base); /* frames only: after others had their turn */
		return STREAM_IO_AGAIN;
	}
	/* The caller may take these for all there is. */
	if (status == BODY_DONE || got == size)
		stream_more(&m->base);
	*n = data;
	return STREAM_IO_OK;
}

/* --- the stream's operations --- */

static enum stream_io op_read(struct stream *s, void *buf, size_t size, size_t *n)
{
	struct message *m = of(s);
	enum stream_io io;

	switch (m->reading) {
	case NOTHING:
	case HELD:
		return STREAM_IO_AGAIN;
	case HEAD:
		io = read_head(m);
		return io == STREAM_IO_OK ? read_body(m, buf, size, n) : io;
	default:
		return read_body(m, buf, size, n);
	}
}

/* Three parts as one: in one write when they are small, else in one flight. */
static bool put(struct message *m, struct slice first, struct slice second, struct slice third)
{
	char together[COMPOSE_BYTES];
	size_t n = first.n + second.n + third.n;
	bool good;

	if (first.n + third.n == 0)
		return stream_write(m->wire, second.p, second.n);
	if (n <= sizeof(together)) {
		memcpy(together, first.p, first.n);
		if (second.n > 0)
			memcpy(together + first.n, second.p, second.n);
		memcpy(together + first.n + second.n, third.p, third.n);
		return stream_write(m->wire, together, n);
	}
	stream_cork(m->wire, true);
	good = stream_write(m->wire, first.p, first.n) && stream_write(m->wire, second.p, second.n) &&
	       stream_write(m->wire, third.p, third.n);
	stream_cork(m->wire, false);
	return good && m->wire->fault == STREAM_FAULT_NONE;
}

/* A target that takes no more of a request has perhaps said why, and what it said lies here already. So what is written
 * from now on goes nowhere, and reading says how it ends. */
static bool may_have_answered(struct message *m)
{
	if (m->request || m->switched || m->wire->fault == STREAM_FAULT_MEMORY)
		return false;
	stream_read_on(m->wire);
	return true;
}

static bool op_write(struct stream *s, const void *data, size_t n)
{
	struct message *m = of(s);
	char prefix[BODY_PREFIX_MAX];
	size_t prefix_n;
	struct slice suffix;

	if (!body_encode(&m->writer, n, prefix, &prefix_n, &suffix)) {
		s->fault = STREAM_FAULT_OTHER; /* more than was announced */
		return false;
	}
	m->cut = m->cut || !put(m, (struct slice){ prefix, prefix_n }, (struct slice){ data, n }, suffix);
	if (!m->cut || m->wire->deaf || may_have_answered(m))
		return true;
	s->fault = m->wire->fault;
	return false;
}

static size_t op_queued(const struct stream *s)
{
	const struct message *m = of(s);

	return m->wire->deaf ? 0 : stream_queued(m->wire); /* what waits for the deaf waits for ever */
}

static size_t op_room(struct stream *s)
{
	return stream_room(of(s)->wire);
}

static void op_finish(struct stream *s)
{
	struct message *m = of(s);
	struct slice last, behind, trailers = { 0 };

	if (m->switched) {
		stream_finish(m->wire);
		return;
	}
	update_wire(m); /* who has its answer may go */
	m->cut = m->cut || !body_finish(&m->writer, &last, &behind);
	if (!m->cut && last.n > 0) {
		if (m->events->trailers)
			trailers = m->events->trailers(m->ctx);
		m->cut = !put(m, last, trailers, behind); /* told when it has settled */
	}
	if (op_queued(s) == 0)
		loop_post(s->loop, &m->settled);
}

static void op_watch(struct stream *s, bool on)
{
	struct message *m = of(s);

	m->wanted = on;
	update_wire(m);
}

/* A head that came together with an interim one. */
static bool op_pending(const struct stream *s)
{
	const struct message *m = of(s);

	return m->reading == HEAD && m->head_n > 0;
}

static void op_cork(struct stream *s, bool on)
{
	stream_cork(of(s)->wire, on);
}

static void on_grave(void *ctx)
{
	struct message *m = ctx;

	stream_closed(&m->base);
	mem_free(m);
}

static void op_close(struct stream *s, enum stream_close how)
{
	struct message *m = of(s);

	stream_attach(m->wire, NULL, NULL);
	stream_pause(m->wire, STREAM_PAUSE_IDLE);
	loop_unpost(s->loop, &m->settled);
	free_head(m);
	body_reader_fini(&m->reader);
	loop_bury(s->loop, &m->grave, on_grave, m);
	if (m->events->closed)
		m->events->closed(m->ctx, how);
}

static const struct stream_ops message_ops = {
	.read = op_read,
	.write = op_write,
	.queued = op_queued,
	.finish = op_finish,
	.watch = op_watch,
	.pending = op_pending,
	.cork = op_cork,
	.room = op_room,
	.close = op_close,
};

/* --- from the wire --- */

static void on_readable(void *ctx)
{
	struct message *m = ctx;

	if (listens_for_leaving(m))
		listen_for_leaving(m);
	else
		stream_notify_readable(&m->base);
}

static void on_drained(void *ctx)
{
	stream_notify_drained(&((struct message *)ctx)->base);
}

static void on_fault(void *ctx)
{
	struct message *m = ctx;

	if (may_have_answered(m) || (m->request && message_is_written(&m->base)))
		stream_notify_drained(&m->base); /* so far as it ever will be, or before the fault */
	else
		stream_notify_fault(&m->base, m->wire->fault);
}

static const struct stream_handler wire_handler = { on_readable, on_drained, on_fault };

static void on_settled(void *ctx)
{
	struct message *m = ctx;

	if (m->wire->fault != STREAM_FAULT_NONE)
		on_fault(m);
	else if (m->cut && !m->wire->deaf)
		stream_notify_fault(&m->base, STREAM_FAULT_OTHER);
	else if (op_queued(&m->base) == 0)
		stream_notify_drained(&m->base);
}

/* --- life --- */

struct stream *message_new(struct loop *loop, struct stream *wire, size_t head_bytes,
	const struct message_events *events, void *ctx)
{
	struct message *m = mem_alloc(sizeof(*m));

	if (!m)
		return NULL;
	stream_init(&m->base, &message_ops, loop);
	m->wire = wire;
	m->limits.head_bytes = head_bytes;
	m->events = events;
	m->ctx = ctx;
	loop_task_init(&m->settled, on_settled, m);
	stream_pause(wire, STREAM_PAUSE_IDLE);
	stream_attach(wire, &wire_handler, m);
	return &m->base;
}

void message_read_request(struct stream *s, struct framing framing, bool hold)
{
	struct message *m = of(s);

	ADIT_ASSERT(m->reading == NOTHING);
	m->request = true;
	body_reader_init(&m->reader, framing, m->limits.head_bytes);
	if (hold) {
		m->more = m->wire->unread != NULL;
		set_reading(m, HELD);
	} else if (is_at_end(m))
		(void)over(m); /* `ended` can not fail without trailers */
	else
		set_reading(m, BODY);
}

void message_read_response(struct stream *s, enum head_method method, const struct head_limits *limits)
{
	struct message *m = of(s);

	ADIT_ASSERT(m->reading == NOTHING);
	m->limits = *limits;
	m->method = method;
	response_parser_init(&m->parser, method);
	set_reading(m, HEAD);
}

void message_send_head(struct stream *s, struct slice head)
{
	struct message *m = of(s);

	m->cut = !stream_write(m->wire, head.p, head.n);
	if (m->cut)
		loop_post(s->loop, &m->settled);
}

void message_write(struct stream *s, struct framing framing)
{
	body_writer_init(&of(s)->writer, framing);
}

void message_switch(struct stream *s)
{
	struct message *m = of(s);
	struct framing bytes = { FRAMING_CLOSE, 0 };

	ADIT_ASSERT(!s->finishing && m->reading != OVER);
	m->switched = true;
	m->more = false;
	body_reader_init(&m->reader, bytes, 0);
	body_writer_init(&m->writer, bytes);
	set_reading(m, BODY);
}

void message_release(struct stream *s)
{
	struct message *m = of(s);

	ADIT_ASSERT(m->reading == HELD);
	(void)over(m);
	stream_more(s);
}

bool message_is_read(const struct stream *s)
{
	return of(s)->reading == OVER;
}

bool message_is_written(const struct stream *s)
{
	const struct message *m = of(s);
	enum framing_kind kind = m->writer.framing.kind;
	bool complete = s->finishing || kind == FRAMING_NONE || (kind == FRAMING_LENGTH && m->writer.left == 0);

	return complete && !m->cut && !m->wire->deaf && stream_queued(m->wire) == 0;
}

bool message_has_begun(const struct stream *s)
{
	return of(s)->begun;
}

bool message_has_more(const struct stream *s)
{
	return of(s)->more;
}
