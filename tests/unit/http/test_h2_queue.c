/* Queues of DATA: order, room for headers, chunks used again, memory that runs out. */
#include "http/h2_queue.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct h2_spare spare;
static struct h2_queue q;

static void setup(void)
{
	h2_spare_init(&spare);
	h2_queue_init(&q);
}

static void teardown(void)
{
	h2_queue_clear(&q, &spare);
	cr_assert_eq(q.n, 0u);
	h2_spare_trim(&spare, 0);
	cr_assert_eq(spare.count, 0u);
}

TestSuite(h2_queue, .init = setup, .fini = teardown);

static char at(size_t i)
{
	return (char)(i * 7 + i / 251);
}

static void add(size_t from, size_t n)
{
	char *bytes = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		bytes[i] = at(from + i);
	cr_assert(h2_queue_add(&q, &spare, bytes, n));
	free(bytes);
}

static void expect(const char *p, size_t n, size_t from)
{
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(p[i], at(from + i), "byte %zu", from + i);
}

static unsigned chunks(void)
{
	struct h2_chunk *c;
	unsigned n = 0;

	TAILQ_FOREACH(c, &q.chunks, entry)
		n++;
	return n;
}

Test(h2_queue, bytes_come_out_as_they_went_in)
{
	static const size_t sizes[] = { 1, 1023, 1024, 1025, 16374, 16375, 16376, 40000, 0, 3 };
	static char out[100000];
	size_t in = 0, taken = 0;

	for (unsigned round = 0; round < 50; round++) {
		size_t n = sizes[round % 10], got;

		add(in, n);
		in += n;
		got = h2_queue_take(&q, &spare, out, sizes[(round * 3) % 10]);
		expect(out, got, taken);
		taken += got;
		cr_assert_eq(q.n, in - taken);
	}
	while (taken < in) {
		size_t got = h2_queue_take(&q, &spare, out, 7777);

		cr_assert_gt(got, 0u);
		expect(out, got, taken);
		taken += got;
	}
	cr_assert_eq(h2_queue_take(&q, &spare, out, 10), 0u);
	cr_assert(TAILQ_EMPTY(&q.chunks));
}

/* A frame's header fits before any bytes, also when only a part of them has left. */
Test(h2_queue, headers_are_written_over_what_has_left)
{
	size_t taken = 0;

	add(0, 100000);
	while (q.n > 0) {
		char *p = NULL;
		size_t n = h2_queue_front(&q, &p), part = n < 5000 ? n : 5000;

		memset(p - H2_FRAME_HEADER_BYTES, 'h', H2_FRAME_HEADER_BYTES);
		expect(p, n, taken);
		h2_queue_drop(&q, &spare, part);
		taken += part;
	}
	cr_assert_eq(taken, 100000u);
}

Test(h2_queue, many_bytes_make_full_frames)
{
	char *p = NULL;

	add(0, 4 * H2_CHUNK_BYTES);
	cr_assert_eq(chunks(), 4u);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(h2_queue_front(&q, &p), (size_t)H2_CHUNK_BYTES);
		h2_queue_drop(&q, &spare, H2_CHUNK_BYTES);
	}
	cr_assert_eq(h2_queue_front(&q, &p), 0u);
	h2_queue_drop(&q, &spare, 0);
}

Test(h2_queue, few_bytes_take_little)
{
	add(0, 1);
	cr_assert_leq(TAILQ_FIRST(&q.chunks)->size, 1100u);
	add(1, 5);
	cr_assert_eq(chunks(), 1u);
}

Test(h2_queue, what_was_read_into_a_chunk_is_not_copied)
{
	struct h2_chunk *c = h2_chunk_new(&spare);
	char out[H2_RECORD_BYTES + 10];

	cr_assert(c);
	add(0, 3);
	for (size_t i = 0; i < H2_RECORD_BYTES; i++)
		c->bytes[i] = at(3 + i);
	h2_queue_adopt(&q, c, H2_RECORD_BYTES);
	cr_assert_eq(TAILQ_LAST(&q.chunks, h2_chunks), c);
	add(3 + H2_RECORD_BYTES, 5); /* behind it, in a chunk that is not full */
	cr_assert_eq(q.n, H2_RECORD_BYTES + 8u);
	cr_assert_eq(h2_queue_take(&q, &spare, out, sizeof(out)), H2_RECORD_BYTES + 8u);
	expect(out, H2_RECORD_BYTES + 8u, 0);
	c = h2_chunk_new(&spare);
	cr_assert(c);
	h2_queue_adopt(&q, c, 1);
	add(0, 5000); /* in what is left of it */
	cr_assert_eq(chunks(), 1u);
	h2_chunk_drop(h2_chunk_new(&spare), &spare);
}

Test(h2_queue, chunks_are_used_again)
{
	const struct h2_chunk *first;

	add(0, 16000);
	first = TAILQ_FIRST(&q.chunks);
	h2_queue_clear(&q, &spare);
	cr_assert_eq(spare.count, 1u);
	add(0, 16000);
	cr_assert_eq(TAILQ_FIRST(&q.chunks), first);
	cr_assert_eq(spare.count, 0u);
	add(16000, 1000000);
	h2_queue_clear(&q, &spare);
	cr_assert_gt(spare.count, 10u);
	cr_assert_leq(spare.count, 64u, "not without a bound");
	h2_spare_trim(&spare, 3);
	cr_assert_eq(spare.count, 3u);
}

Test(h2_queue, all_or_nothing_without_memory)
{
	bool hit = true;

	add(0, 10000);
	for (unsigned long nth = 1; hit; nth++) {
		static char bytes[200000];
		char *p = NULL;
		bool good;

		mem_fault_set(nth, false);
		good = h2_queue_add(&q, &spare, bytes, sizeof(bytes));
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(good, !hit);
		cr_assert_eq(q.n, good ? 210000u : 10000u);
		if (!good) {
			cr_assert_eq(h2_queue_front(&q, &p), 10000u);
			expect(p, 10000, 0);
			h2_spare_trim(&spare, 0);
		}
	}
}
