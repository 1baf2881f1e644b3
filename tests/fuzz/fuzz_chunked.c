/* Any bytes as a chunked body: the outcome is that of a second decoder, which sees everything at once and was written
 * for nothing else, however the bytes are cut. And any bytes as what is encoded: they are read back. The first two bytes
 * say how large trailers may be and where the cuts are. */
#include "adit/base/obj.h"
#include "adit/http/body.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct framing CHUNKED = { FRAMING_CHUNKED, 0 };

struct outcome {
	enum body_status status;
	char *data, *trailers;
	size_t data_n, trailers_n;
	size_t taken; /* BODY_DONE */
};

static void *buffer(size_t n)
{
	void *p = malloc(n ? n : 1);

	if (!p)
		abort();
	return p;
}

static void outcome_free(struct outcome *o)
{
	free(o->data);
	free(o->trailers);
}

static void append(char *to, size_t *n, const char *p, size_t more)
{
	if (more > 0)
		memcpy(to + *n, p, more);
	*n += more;
}

/* --- the second decoder: whole lines, found by their ends ------------------------------------------------------- */

/* 1: a line that ends in CRLF and has nothing else of that kind; 0: not whole; -1: never one. */
static int line_of(const char *p, size_t n, size_t *len)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c == '\r') {
			*len = i;
			return i + 1 == n ? 0 : p[i + 1] == '\n' ? 1 : -1;
		}
		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return -1;
	}
	*len = n;
	return 0;
}

static size_t digits_of(const char *p, size_t n, unsigned long long *value)
{
	size_t digits = 0;

	*value = 0;
	while (digits < n && p[digits] != '\0' && strchr("0123456789abcdefABCDEF", p[digits])) {
		char text[2] = { p[digits], '\0' };

		if (digits < 16)
			*value = *value * 16 + strtoull(text, NULL, 16);
		digits++;
	}
	return digits;
}

/* As line_of; what is there of the line may already be wrong. */
static int size_line(const char *p, size_t n, size_t *len, unsigned long long *size)
{
	int whole = line_of(p, n, len);
	size_t digits = digits_of(p, *len, size);

	if (whole < 0 || digits > 16 || *len > 256)
		return -1;
	if (digits == 0 && (*len > 0 || n > 0))
		return -1;
	if (digits < *len && p[digits] != ';')
		return -1;
	return whole;
}

static bool is_name(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] == '\0' || !strchr("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", p[i]))
			return false;
	return n > 0;
}

static void read_trailers(const char *p, size_t n, size_t at, size_t trailers_max, struct outcome *o)
{
	for (;;) {
		size_t len = 0;
		const char *colon;
		int whole = line_of(p + at, n - at, &len);

		if (whole == 1 && len == 0) {
			o->status = BODY_DONE;
			o->taken = at + 2;
			return;
		}
		/* A CR counts as soon as it is there. */
		if (whole < 0 || (len > 0 && (p[at] == ' ' || p[at] == '\t')) ||
		    (len > 0 && o->trailers_n + len + (len < n - at) + (whole == 1) > trailers_max)) {
			o->status = BODY_BAD;
			return;
		}
		if (whole == 0)
			return;
		colon = memchr(p + at, ':', len);
		if (!colon || !is_name(p + at, (size_t)(colon - p) - at)) {
			o->status = BODY_BAD;
			return;
		}
		append(o->trailers, &o->trailers_n, p + at, len + 2);
		at += len + 2;
	}
}

static struct outcome read_whole(const char *p, size_t n, size_t trailers_max)
{
	struct outcome o = { .status = BODY_GOES_ON, .data = buffer(n), .trailers = buffer(n) };

	for (size_t at = 0;;) {
		unsigned long long size;
		size_t len = 0, have;
		int whole;

		if (at == n)
			return o;
		whole = size_line(p + at, n - at, &len, &size);
		if (whole < 0)
			o.status = BODY_BAD;
		if (whole != 1)
			return o;
		at += len + 2;
		if (size == 0) {
			read_trailers(p, n, at, trailers_max, &o);
			return o;
		}
		have = size < n - at ? (size_t)size : n - at;
		append(o.data, &o.data_n, p + at, have);
		at += have;
		if ((at < n && p[at] != '\r') || (at + 1 < n && p[at + 1] != '\n'))
			o.status = BODY_BAD;
		if (o.status == BODY_BAD || at + 2 > n)
			return o;
		at += 2;
	}
}

/* --- the decoder ------------------------------------------------------------------------------------------------- */

static unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1103515245u + 12345u;
	return *seed >> 16;
}

/* most: of bytes in one piece. */
static struct outcome decode(const char *p, size_t n, size_t trailers_max, size_t most, unsigned seed)
{
	struct outcome o = { .status = BODY_GOES_ON, .data = buffer(n), .trailers = buffer(n) };
	struct body_reader b;
	struct slice trailers;
	size_t at = 0;

	body_reader_init(&b, CHUNKED, trailers_max);
	while (at < n && o.status == BODY_GOES_ON) {
		size_t piece = 1 + next_random(&seed) % most, data, rest;
		enum reason why;
		char *buf;

		piece = piece < n - at ? piece : n - at;
		buf = buffer(piece);
		memcpy(buf, p + at, piece);
		o.status = body_decode(&b, buf, piece, &data, &rest, &why);
		ADIT_ASSERT(data <= rest && rest <= piece && (o.status != BODY_GOES_ON || rest == piece));
		ADIT_ASSERT(why == (o.status == BODY_BAD ? REASON_BAD_CHUNK : REASON_OK));
		append(o.data, &o.data_n, buf, data);
		at += rest;
		free(buf);
	}
	ADIT_ASSERT(body_end(&b) == (o.status == BODY_DONE ? BODY_DONE : BODY_BAD));
	o.taken = at;
	trailers = body_trailers(&b);
	append(o.trailers, &o.trailers_n, trailers.p, trailers.n);
	body_reader_fini(&b);
	return o;
}

static void expect_same(const struct outcome *expected, struct outcome *o)
{
	ADIT_ASSERT(o->status == expected->status);
	ADIT_ASSERT(o->data_n == expected->data_n && memcmp(o->data, expected->data, o->data_n) == 0);
	if (o->status == BODY_DONE) {
		ADIT_ASSERT(o->taken == expected->taken);
		ADIT_ASSERT(o->trailers_n == expected->trailers_n && memcmp(o->trailers, expected->trailers, o->trailers_n) == 0);
	}
	outcome_free(o);
}

static void read_any(const char *p, size_t n, size_t trailers_max, unsigned seed)
{
	struct outcome expected = read_whole(p, n, trailers_max), o;

	o = decode(p, n, trailers_max, SIZE_MAX, ~0u);
	expect_same(&expected, &o);
	o = decode(p, n, trailers_max, 1, seed);
	expect_same(&expected, &o);
	o = decode(p, n, trailers_max, 9, seed);
	expect_same(&expected, &o);
	o = decode(p, n, trailers_max, 300, seed);
	expect_same(&expected, &o);
	outcome_free(&expected);
}

static void write_and_read(const char *p, size_t n, unsigned seed)
{
	size_t out_n = 0;
	char *out = buffer(n + (n + 1) * (BODY_PREFIX_MAX + 2) + 7);
	struct body_writer w;
	struct slice last, behind;
	struct outcome o;
	bool whole;

	body_writer_init(&w, CHUNKED);
	for (size_t at = 0; at < n;) {
		size_t piece = 1 + next_random(&seed) % 40, prefix_n;
		char prefix[BODY_PREFIX_MAX];
		struct slice suffix;
		bool fits;

		piece = piece < n - at ? piece : n - at;
		fits = body_encode(&w, piece, prefix, &prefix_n, &suffix);
		ADIT_ASSERT(fits && prefix_n <= sizeof(prefix));
		append(out, &out_n, prefix, prefix_n);
		append(out, &out_n, p + at, piece);
		append(out, &out_n, suffix.p, suffix.n);
		at += piece;
	}
	whole = body_finish(&w, &last, &behind);
	ADIT_ASSERT(whole);
	append(out, &out_n, last.p, last.n);
	append(out, &out_n, behind.p, behind.n);
	o = decode(out, out_n, 0, 25, seed);
	ADIT_ASSERT(o.status == BODY_DONE && o.taken == out_n && o.trailers_n == 0);
	ADIT_ASSERT(o.data_n == n && memcmp(o.data, p, n) == 0);
	outcome_free(&o);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t trailers_max;
	const char *p;

	if (size < 2)
		return 0;
	trailers_max = (size_t)data[0] * 8;
	p = (const char *)data + 2;
	read_any(p, size - 2, trailers_max, data[1]);
	write_and_read(p, size - 2, data[1]);
	return 0;
}
