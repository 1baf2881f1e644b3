/* Queues of DATA. */
#include "http/h2_queue.h"

#include "adit/base/mem.h"

#include <string.h>

enum { SMALL_BYTES = 1024, SPARE_MAX = 64 };

static struct h2_chunk *chunk_alloc(size_t size)
{
	struct h2_chunk *c = mem_alloc(sizeof(*c) + size);

	if (c)
		c->size = (unsigned)size;
	return c;
}

struct h2_chunk *h2_chunk_new(struct h2_spare *spare)
{
	struct h2_chunk *c = TAILQ_FIRST(&spare->chunks);

	if (!c)
		return chunk_alloc(H2_RECORD_BYTES);
	TAILQ_REMOVE(&spare->chunks, c, entry);
	spare->count--;
	return c;
}

/* With a header's room. */
static struct h2_chunk *chunk_for(struct h2_spare *spare, size_t n)
{
	/* a few bytes of an interactive tunnel shall not hold 16 KB */
	struct h2_chunk *c =
	    n <= SMALL_BYTES ? chunk_alloc(H2_FRAME_HEADER_BYTES + SMALL_BYTES) : h2_chunk_new(spare);

	if (c)
		c->from = c->to = H2_FRAME_HEADER_BYTES;
	return c;
}

void h2_chunk_drop(struct h2_chunk *c, struct h2_spare *spare)
{
	if (c->size < H2_RECORD_BYTES || spare->count == SPARE_MAX) {
		mem_free(c);
		return;
	}
	TAILQ_INSERT_HEAD(&spare->chunks, c, entry);
	spare->count++;
}

void h2_spare_init(struct h2_spare *spare)
{
	TAILQ_INIT(&spare->chunks);
	spare->count = 0;
}

void h2_spare_trim(struct h2_spare *spare, unsigned keep)
{
	while (spare->count > keep) {
		struct h2_chunk *c = TAILQ_FIRST(&spare->chunks);

		TAILQ_REMOVE(&spare->chunks, c, entry);
		spare->count--;
		mem_free(c);
	}
}

void h2_queue_init(struct h2_queue *q)
{
	TAILQ_INIT(&q->chunks);
	q->n = 0;
}

static void drop_first(struct h2_queue *q, struct h2_spare *spare)
{
	struct h2_chunk *c = TAILQ_FIRST(&q->chunks);

	TAILQ_REMOVE(&q->chunks, c, entry);
	h2_chunk_drop(c, spare);
}

void h2_queue_clear(struct h2_queue *q, struct h2_spare *spare)
{
	while (!TAILQ_EMPTY(&q->chunks))
		drop_first(q, spare);
	q->n = 0;
}

/* Chunks for n bytes; all or none. */
static bool chunks_new(struct h2_chunks *fresh, struct h2_spare *spare, size_t n)
{
	TAILQ_INIT(fresh);
	while (n > 0) {
		struct h2_chunk *c = chunk_for(spare, n);

		if (!c) {
			while ((c = TAILQ_FIRST(fresh))) {
				TAILQ_REMOVE(fresh, c, entry);
				h2_chunk_drop(c, spare);
			}
			return false;
		}
		TAILQ_INSERT_TAIL(fresh, c, entry);
		n -= n < c->size - c->to ? n : c->size - c->to;
	}
	return true;
}

static size_t fill(struct h2_chunk *c, const char *p, size_t n)
{
	size_t room = c->size - c->to;
	size_t taken = n < room ? n : room;

	memcpy(c->bytes + c->to, p, taken);
	c->to += (unsigned)taken;
	return taken;
}

bool h2_queue_add(struct h2_queue *q, struct h2_spare *spare, const void *data, size_t n)
{
	const char *p = data;
	struct h2_chunk *c = TAILQ_LAST(&q->chunks, h2_chunks);
	size_t fits = c ? c->size - c->to : 0;
	struct h2_chunks fresh = TAILQ_HEAD_INITIALIZER(fresh);

	if (n > fits && !chunks_new(&fresh, spare, n - fits))
		return false;
	q->n += n;
	if (c && n > 0) {
		size_t taken = fill(c, p, n);

		p += taken;
		n -= taken;
	}
	while (n > 0) {
		size_t taken;

		c = TAILQ_FIRST(&fresh);
		ADIT_ASSERT(c); /* there are as many as the bytes need */
		TAILQ_REMOVE(&fresh, c, entry);
		taken = fill(c, p, n);
		p += taken;
		n -= taken;
		TAILQ_INSERT_TAIL(&q->chunks, c, entry);
	}
	return true;
}

void h2_queue_adopt(struct h2_queue *q, struct h2_chunk *c, size_t n)
{
	ADIT_ASSERT(n > 0 && n <= c->size);
	c->from = 0;
	c->to = (unsigned)n;
	TAILQ_INSERT_TAIL(&q->chunks, c, entry);
	q->n += n;
}

size_t h2_queue_front(struct h2_queue *q, char **p)
{
	struct h2_chunk *c = TAILQ_FIRST(&q->chunks);

	if (!c)
		return 0;
	*p = c->bytes + c->from;
	return c->to - c->from;
}

unsigned h2_queue_pieces(const struct h2_queue *q, struct iovec *v, unsigned most)
{
	struct h2_chunk *c;
	unsigned count = 0;

	TAILQ_FOREACH(c, &q->chunks, entry) {
		if (count == most)
			break;
		v[count++] = (struct iovec){ c->bytes + c->from, c->to - c->from };
	}
	return count;
}

void h2_queue_drop(struct h2_queue *q, struct h2_spare *spare, size_t n)
{
	ADIT_ASSERT(n <= q->n);
	q->n -= n;
	while (n > 0) {
		struct h2_chunk *c = TAILQ_FIRST(&q->chunks);
		unsigned here = n < c->to - c->from ? (unsigned)n : c->to - c->from;

		c->from += here;
		n -= here;
		if (c->from == c->to)
			drop_first(q, spare);
	}
}

size_t h2_queue_take(struct h2_queue *q, struct h2_spare *spare, void *buf, size_t size)
{
	char *out = buf, *p;
	size_t taken = 0, n;

	while (taken < size && (n = h2_queue_front(q, &p)) > 0) {
		if (n > size - taken)
			n = size - taken;
		memcpy(out + taken, p, n);
		h2_queue_drop(q, spare, n);
		taken += n;
	}
	return taken;
}
