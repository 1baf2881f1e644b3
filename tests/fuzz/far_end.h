/* One far end under a script: what it sent is kept, so that what arrives on the other side can be compared. Its stream
 * may come later than its bytes, as with a target that speaks before its tunnel stands. */
#ifndef ADIT_TESTS_FUZZ_FAR_END_H
#define ADIT_TESTS_FUZZ_FAR_END_H

#include "component/mem_stream.h"
#include "fuzz/script.h"

#include <string.h>

enum { FAR_SENT_MAX = 32 * 1024 };

struct far_end {
	struct mem_stream *m; /* NULL: no stream yet */
	char sent[FAR_SENT_MAX];
	size_t sent_n;
	bool ended, truncated; /* FIN, and whether it came without a good-bye */
	bool broken; /* a fault was sent or told, or writes are refused */
	enum stream_fault fault; /* to be read behind the bytes */
	size_t window, read_max;
	bool above;
};

static inline void far_init(struct far_end *f, bool above)
{
	f->m = NULL;
	f->sent_n = 0;
	f->ended = f->truncated = f->broken = false;
	f->fault = STREAM_FAULT_NONE;
	f->window = SIZE_MAX;
	f->read_max = 0;
	f->above = above;
}

static inline void far_attach(struct far_end *f, struct mem_stream *m)
{
	f->m = m;
	m->window = f->window;
	m->read_max = f->read_max;
	m->above = f->above;
	if (f->sent_n > 0)
		mem_feed(m, f->sent, f->sent_n);
	if (f->ended)
		mem_feed_eof(m, f->truncated);
	if (f->fault != STREAM_FAULT_NONE)
		mem_feed_fault(m, f->fault);
}

/* How much of what was sent has been read from the stream, bytes that were given back not counted. */
static inline size_t far_taken(const struct far_end *f)
{
	const struct stream *s = &f->m->base;

	return f->sent_n - f->m->in_n - (s->unread ? s->unread_n - s->unread_at : 0);
}

static inline void far_send(struct far_end *f, const void *p, size_t n)
{
	if (f->ended || f->broken)
		return; /* nothing comes behind the end */
	if (n > FAR_SENT_MAX - f->sent_n)
		n = FAR_SENT_MAX - f->sent_n;
	if (n == 0)
		return;
	memcpy(f->sent + f->sent_n, p, n);
	f->sent_n += n;
	if (f->m)
		mem_feed(f->m, p, n);
}

/* Bytes that are never the same at two places near each other. */
static inline void far_send_pattern(struct far_end *f, size_t n, unsigned salt)
{
	uint8_t bytes[4096];

	n = n < sizeof(bytes) ? n : sizeof(bytes);
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)((f->sent_n + i) * 7 + (f->sent_n + i) / 251 + salt);
	far_send(f, bytes, n);
}

static inline void far_send_tls_record(struct far_end *f, size_t n)
{
	const uint8_t header[] = { 23, 3, 3, (uint8_t)(n >> 8), (uint8_t)n };

	far_send(f, header, sizeof(header));
	far_send_pattern(f, n, 3);
}

static inline void far_finish(struct far_end *f, bool truncated)
{
	if (f->ended || f->broken)
		return;
	f->ended = true;
	f->truncated = truncated;
	if (f->m)
		mem_feed_eof(f->m, truncated);
}

static inline enum stream_fault far_fault_of(unsigned digit)
{
	static const enum stream_fault faults[] = { STREAM_FAULT_RESET, STREAM_FAULT_PROTOCOL, STREAM_FAULT_TIMEOUT,
						    STREAM_FAULT_MEMORY, STREAM_FAULT_OTHER };

	return faults[digit % 5];
}

/* Read behind what was sent. */
static inline void far_fail(struct far_end *f, enum stream_fault fault)
{
	if (f->ended || f->broken)
		return;
	f->broken = true;
	f->fault = fault;
	if (f->m)
		mem_feed_fault(f->m, fault);
}

/* Told at once, and nothing more can be written. Without a stream there is nobody to tell. */
static inline void far_break(struct far_end *f, enum stream_fault fault)
{
	if (!f->m)
		return;
	f->broken = true;
	mem_break(f->m, fault);
}

/* The next write fails. */
static inline void far_refuse(struct far_end *f)
{
	if (!f->m)
		return;
	f->broken = true;
	f->m->refuse = true;
}

static inline size_t far_size_of(unsigned digit)
{
	static const size_t sizes[] = { 1, 2, 5, 16, 63, 64, 65, 200, 511, 512, 513, 1024, 1500, 2048, 4095, 4096 };

	return sizes[digit & 15];
}

static inline void far_window(struct far_end *f, unsigned digit)
{
	static const size_t windows[] = { SIZE_MAX, 0, 1, 7, 100, 1000, 0, SIZE_MAX };

	f->window = windows[digit & 7];
	if (f->m)
		f->m->window = f->window;
}

static inline void far_read_max(struct far_end *f, unsigned digit)
{
	static const size_t most[] = { 0, 1, 3, 50 };

	f->read_max = most[digit & 3];
	if (f->m)
		f->m->read_max = f->read_max;
}

static inline void far_drain(struct far_end *f, unsigned digit)
{
	static const size_t most[] = { SIZE_MAX, 1, 2, 10, 100, 500, 1000, SIZE_MAX };

	if (f->m)
		mem_drain(f->m, most[digit & 7]);
}

#endif
