/* Inner TLS records in any bytes, cut anywhere: each part is judged by the same borders as the whole, found here by
 * walking over the stream in one go. */
#include "fuzz/script.h"
#include "tunnel/inner.h"

#include <string.h>

enum { BYTES_MAX = 8192, BODY_MAX = 16384 + 2048 };

struct border {
	size_t begin, end;
};

struct borders {
	struct border record[BYTES_MAX / INNER_HEADER_BYTES + 1];
	size_t count;
	size_t over_at; /* the byte that cannot be TLS; BYTES_MAX: none */
};

static void walk(const uint8_t *p, size_t n, struct borders *b)
{
	size_t at = 0;

	b->count = 0;
	b->over_at = BYTES_MAX;
	while (at < n) {
		size_t body;

		if (p[at] < 20 || p[at] > 23)
			b->over_at = at;
		else if (at + 1 < n && p[at + 1] != 3)
			b->over_at = at + 1;
		else if (at + 4 < n && p[at + 3] * 256 + p[at + 4] > BODY_MAX)
			b->over_at = at + 4;
		if (b->over_at < BYTES_MAX || at + 4 >= n)
			return;
		body = (size_t)p[at + 3] * 256 + p[at + 4];
		b->record[b->count++] = (struct border){ at, at + INNER_HEADER_BYTES + body };
		at += INNER_HEADER_BYTES + body;
	}
}

/* What inner_last should say of bytes [from, to). */
static size_t expected(const struct borders *b, size_t from, size_t to)
{
	if (b->over_at < to)
		return 0;
	for (size_t i = b->count; i > 0; i--) {
		const struct border *r = &b->record[i - 1];

		if (r->end <= from)
			return 0;
		if (r->end <= to)
			return r->begin > from ? r->begin - from : 0;
	}
	return 0;
}

/* First byte: how many of the next bytes are lengths of parts, used in turn; the rest is the stream. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };
	const uint8_t *cuts, *p;
	size_t cut_count = script_take(&s, script_digit(&s), &cuts), n = script_take(&s, BYTES_MAX, &p);
	static struct borders borders;
	struct inner in = { 0 };

	walk(p, n, &borders);
	for (size_t at = 0, i = 0; at < n; i++) {
		size_t part = cut_count > 0 ? cuts[i % cut_count] : n, left = n - at, last;
		char *copy;

		part = part == 0 ? 1 : part > left ? left : part;
		copy = malloc(part); /* reading behind it is seen */
		must(copy != NULL, "out of memory");
		memcpy(copy, p + at, part);
		last = inner_last(&in, copy, part);
		must(last < part && last == expected(&borders, at, at + part), "another border than in the whole");
		free(copy);
		at += part;
		must(in.over == (borders.over_at < at), "TLS or not");
		must(in.over || (in.header_n < INNER_HEADER_BYTES && in.body_left <= BODY_MAX), "state");
	}
	return 0;
}
