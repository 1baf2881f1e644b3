/* Bodies: where they end, however the bytes are cut; what is refused; and that what is written is read back. Inputs are
 * exact copies on the heap, where the sanitizer sees a byte too many. */
#include "adit/http/body.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define TEXT(literal) literal, sizeof(literal) - 1
#define DIGITS_16 "0000000000000005"
#define EXTENSION_62 "-234567890123456789012345678901234567890123456789012345678901-"

enum { TRAILERS_MAX = 100 };
static const struct framing NONE = { FRAMING_NONE, 0 }, CHUNKED = { FRAMING_CHUNKED, 0 }, CLOSE = { FRAMING_CLOSE, 0 };

/* --- how a body is fed ------------------------------------------------------------------------------------------- */

struct outcome {
	enum body_status status, end;
	enum reason why;
	char data[4096], trailers[TRAILERS_MAX];
	size_t data_n, trailers_n, taken;
};

static void feed(struct body_reader *b, const char *text, size_t n, struct outcome *o)
{
	char *buf = malloc(n ? n : 1);
	size_t data, rest;

	cr_assert(buf);
	if (n > 0)
		memcpy(buf, text, n);
	o->status = body_decode(b, buf, n, &data, &rest, &o->why);
	cr_assert(data <= rest && rest <= n);
	cr_assert((o->status == BODY_BAD) == (o->why != REASON_OK));
	if (o->status == BODY_GOES_ON)
		cr_assert_eq(rest, n);
	memcpy(o->data + o->data_n, buf, data);
	o->data_n += data;
	o->taken += rest;
	free(buf);
}

static void finish(struct body_reader *b, struct outcome *o)
{
	struct slice trailers = body_trailers(b);

	o->end = body_end(b);
	cr_assert_eq(trailers.n > 0 && o->status != BODY_DONE, false, "trailers before the end");
	cr_assert_leq(trailers.n, sizeof(o->trailers));
	if (trailers.n > 0)
		memcpy(o->trailers, trailers.p, trailers.n);
	o->trailers_n = trailers.n;
	if (o->status != BODY_GOES_ON) { /* the answer stays */
		char more[] = "0\r\n\r\n";
		enum reason why;
		size_t data, rest;

		cr_assert_eq(body_decode(b, more, sizeof(more) - 1, &data, &rest, &why), o->status);
		cr_assert(data == 0 && rest == 0 && why == o->why);
	}
	body_reader_fini(b);
}

/* In pieces of `step` bytes after a first one of `first`. */
static void decode(const char *text, size_t n, struct framing framing, size_t first, size_t step, struct outcome *o)
{
	struct body_reader b;

	*o = (struct outcome){ .status = BODY_GOES_ON };
	body_reader_init(&b, framing, TRAILERS_MAX);
	for (size_t at = 0, piece = first;; piece = step) {
		piece = piece < n - at ? piece : n - at;
		feed(&b, text + at, piece, o);
		at += piece;
		if (o->status != BODY_GOES_ON || at == n)
			break;
	}
	finish(&b, o);
}

static void expect_same(const struct outcome *a, const struct outcome *b, const char *text, size_t cut)
{
	cr_assert(a->status == b->status && a->why == b->why && a->end == b->end, "cut at %zu: %s", cut, text);
	cr_assert(a->data_n == b->data_n && memcmp(a->data, b->data, a->data_n) == 0, "cut at %zu: %s", cut, text);
	cr_assert(a->trailers_n == b->trailers_n && memcmp(a->trailers, b->trailers, a->trailers_n) == 0, "cut at %zu: %s",
		  cut, text);
	cr_assert_eq(a->taken, b->taken, "cut at %zu: %s", cut, text);
}

/* Whole, byte by byte, and in two for every cut. */
static void decode_all_ways(const char *text, size_t n, struct framing framing, struct outcome *whole)
{
	struct outcome o;

	decode(text, n, framing, n, n, whole);
	decode(text, n, framing, 1, 1, &o);
	expect_same(whole, &o, text, 1);
	for (size_t cut = 0; cut <= n; cut++) {
		decode(text, n, framing, cut, n, &o);
		expect_same(whole, &o, text, cut);
		decode(text, n, framing, cut, 1, &o);
		expect_same(whole, &o, text, cut);
	}
}

/* --- chunks ------------------------------------------------------------------------------------------------------ */

static const struct good {
	const char *text;
	size_t n;
	const char *data, *trailers;
	size_t rest; /* bytes behind the message */
} GOOD[] = {
	{ TEXT("0\r\n\r\n"), "", "", 0 },
	{ TEXT("000\r\n\r\nGET"), "", "", 3 },
	{ TEXT("5\r\nhello\r\n0\r\n\r\n"), "hello", "", 0 },
	{ TEXT("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\nHTTP/1.1 200"), "hello world", "", 12 },
	{ TEXT("a\r\n0123456789\r\n0\r\n\r\n\r\n"), "0123456789", "", 2 },
	{ TEXT("B\r\n0123456789a\r\n0\r\n\r\n"), "0123456789a", "", 0 },
	{ TEXT("2\r\n\r\n\r\n0\r\n\r\n"), "\r\n", "", 0 },
	{ TEXT("5\r\n0\r\n\r\n\r\n0\r\n\r\n"), "0\r\n\r\n", "", 0 },
	{ TEXT(DIGITS_16 "\r\nhello\r\n0000000000000000\r\n\r\n"), "hello", "", 0 },
	{ TEXT("5;x\r\nhello\r\n0;y=z\r\n\r\n"), "hello", "", 0 },
	{ TEXT("5;x=\"a;b \t\xc3\xa9\";\r\nhello\r\n0;\r\n\r\n"), "hello", "", 0 },
	{ TEXT("5;" EXTENSION_62 EXTENSION_62 EXTENSION_62 EXTENSION_62 "123456\r\nhello\r\n0\r\n\r\n"), "hello", "", 0 },
	{ TEXT("0\r\nX: y\r\n\r\n"), "", "X: y\r\n", 0 },
	{ TEXT("1\r\na\r\n0\r\nDigest: \t b \r\nEmpty:\r\nC: \xff\r\n\r\nmore"), "a", "Digest: \t b \r\nEmpty:\r\nC: \xff\r\n", 4 },
	/* a trailer section as large as it may be: 100 bytes with its CRLFs */
	{ TEXT("0\r\nX: " EXTENSION_62 "123456789012345678901234567890123\r\n\r\n"), "",
	  "X: " EXTENSION_62 "123456789012345678901234567890123\r\n", 0 },
};

Test(body, chunks_taken)
{
	for (size_t i = 0; i < COUNT(GOOD); i++) {
		const struct good *g = &GOOD[i];
		struct outcome o;

		decode_all_ways(g->text, g->n, CHUNKED, &o);
		cr_assert_eq(o.status, BODY_DONE, "%s", g->text);
		cr_expect_eq(o.end, BODY_DONE);
		cr_expect(slice_eq((struct slice){ o.data, o.data_n }, slice_of(g->data)), "%s", g->text);
		cr_expect(slice_eq((struct slice){ o.trailers, o.trailers_n }, slice_of(g->trailers)), "%s", g->text);
		cr_expect_eq(o.taken, g->n - g->rest, "%s", g->text);
		/* Cut anywhere before its end, the message is broken and never short. */
		for (size_t n = 0; n < g->n - g->rest; n++) {
			decode(g->text, n, CHUNKED, n, n, &o);
			cr_assert_eq(o.status, BODY_GOES_ON, "%.*s", (int)n, g->text);
			cr_assert_eq(o.end, BODY_BAD, "%.*s", (int)n, g->text);
		}
	}
}

static const struct bad {
	const char *text;
	size_t n;
	const char *data; /* what was good before */
} BAD[] = {
	/* sizes */
	{ TEXT("\r\n"), "" },
	{ TEXT(";x\r\n"), "" },
	{ TEXT("0x5\r\nhello\r\n0\r\n\r\n"), "" },
	{ TEXT("x5\r\n"), "" },
	{ TEXT("5h\r\nhello\r\n"), "" },
	{ TEXT("g\r\n"), "" },
	{ TEXT(" 5\r\nhello\r\n"), "" },
	{ TEXT("5 \r\nhello\r\n"), "" },
	{ TEXT("5\t\r\nhello\r\n"), "" },
	{ TEXT("5 ;x\r\nhello\r\n"), "" },
	{ TEXT("+5\r\nhello\r\n"), "" },
	{ TEXT("-5\r\nhello\r\n"), "" },
	{ TEXT("-0\r\n\r\n"), "" },
	{ TEXT("5,0\r\nhello\r\n"), "" },
	{ TEXT("5.0\r\nhello\r\n"), "" },
	{ TEXT("\xef\xbc\x95\r\nhello\r\n"), "" },
	{ TEXT("0" DIGITS_16 "\r\nhello\r\n"), "" },
	{ TEXT("10000000000000005\r\nhello\r\n"), "" },
	{ TEXT("00000000000000000\r\n\r\n"), "" },
	{ TEXT("5\0\r\nhello\r\n"), "" },
	/* line ends */
	{ TEXT("5\nhello\r\n"), "" },
	{ TEXT("5\rhello\r\n"), "" },
	{ TEXT("5\r5\r\nhello\r\n"), "" },
	{ TEXT("5\r\r\nhello\r\n"), "" },
	{ TEXT("5\r\nhello\n"), "hello" },
	{ TEXT("5\r\nhello\r0"), "hello" },
	{ TEXT("5\r\nhello0\r\n\r\n"), "hello" },
	{ TEXT("4\r\nhello\r\n0\r\n\r\n"), "hell" },
	{ TEXT("6\r\nhello\r\n0\r\n\r\n"), "hello\r" },
	{ TEXT("5\r\nhello\r\n\r\n0\r\n\r\n"), "hello" },
	{ TEXT("0\n\r\n"), "" },
	{ TEXT("0\r\n\n"), "" },
	{ TEXT("0\r\n\rX"), "" },
	{ TEXT("0\r\n\r\r\n"), "" },
	/* extensions */
	{ TEXT("5;x\nhello\r\n0\r\n\r\n"), "" },
	{ TEXT("5;\nhello\r\n0\r\n\r\n"), "" },
	{ TEXT("5;x\rhello\r\n"), "" },
	{ TEXT("5;x\0\r\nhello\r\n"), "" },
	{ TEXT("5;x\x7f\r\nhello\r\n"), "" },
	{ TEXT("5;x=\"\r\n" "\"\r\nhello\r\n"), "\"\r\nhe" }, /* a CRLF ends the line also in quotes */
	{ TEXT("5;" EXTENSION_62 EXTENSION_62 EXTENSION_62 EXTENSION_62 "1234567\r\nhello\r\n0\r\n\r\n"), "" },
	/* trailers */
	{ TEXT("0\r\nX: a\n\r\n"), "" },
	{ TEXT("0\r\nX: a\rb\r\n\r\n"), "" },
	{ TEXT("0\r\nX: a\0b\r\n\r\n"), "" },
	{ TEXT("0\r\nX: a\x7f\r\n\r\n"), "" },
	{ TEXT("0\r\n X: a\r\n\r\n"), "" },
	{ TEXT("0\r\n\tX: a\r\n\r\n"), "" },
	{ TEXT("0\r\nX: a\r\n b\r\n\r\n"), "" },
	{ TEXT("0\r\nX : a\r\n\r\n"), "" },
	{ TEXT("0\r\nX\r\n\r\n"), "" },
	{ TEXT("0\r\n: a\r\n\r\n"), "" },
	{ TEXT("0\r\nX y: a\r\n\r\n"), "" },
	{ TEXT("0\r\nGET / HTTP/1.1\r\n\r\n"), "" },
	{ TEXT("0\r\nX: " EXTENSION_62 "1234567890123456789012345678901234\r\n\r\n"), "" },
};

Test(body, chunks_refused)
{
	for (size_t i = 0; i < COUNT(BAD); i++) {
		struct outcome o;

		decode_all_ways(BAD[i].text, BAD[i].n, CHUNKED, &o);
		cr_expect_eq(o.status, BODY_BAD, "%s", BAD[i].text);
		cr_expect_eq(o.why, REASON_BAD_CHUNK, "%s", BAD[i].text);
		cr_expect_eq(o.end, BODY_BAD, "%s", BAD[i].text);
		cr_expect(slice_eq((struct slice){ o.data, o.data_n }, slice_of(BAD[i].data)), "%s", BAD[i].text);
	}
}

/* Every byte at every place: the answer does not depend on the cut, and no line ends in anything but CRLF. */
Test(body, every_byte_everywhere)
{
	static const char text[] = "5;x\r\nhello\r\n0\r\nX: y\r\n\r\n";

	for (size_t at = 0; at < sizeof(text) - 1; at++)
		for (int c = 0; c < 256; c++) {
			char changed[sizeof(text)];
			struct outcome whole, o;

			memcpy(changed, text, sizeof(text));
			changed[at] = (char)c;
			decode(changed, sizeof(text) - 1, CHUNKED, sizeof(text), 1, &whole);
			decode(changed, sizeof(text) - 1, CHUNKED, 1, 1, &o);
			expect_same(&whole, &o, changed, 1);
			decode(changed, sizeof(text) - 1, CHUNKED, at, sizeof(text), &o);
			expect_same(&whole, &o, changed, at);
			if (strchr("\r\n", text[at]) && c != text[at]) /* behind an extension's name there may be more of it */
				cr_assert(whole.status == BODY_BAD || at == 3, "byte %d at %zu", c, at);
		}
}

/* The largest size: its end is not reached by wrapping around. */
Test(body, largest_chunk)
{
	static const char text[] = "ffffffffffffffff\r\n0\r\n\r\n";
	struct outcome o;

	decode_all_ways(TEXT(text), CHUNKED, &o);
	cr_expect_eq(o.status, BODY_GOES_ON);
	cr_expect_eq(o.data_n, 5u);
	cr_expect_eq(o.end, BODY_BAD);
}

Test(body, trailers_forbidden)
{
	char text[] = "0\r\nX: y\r\n\r\n", none[] = "0\r\n\r\n";
	struct body_reader b;
	size_t data, rest;
	enum reason why;

	body_reader_init(&b, CHUNKED, 0);
	cr_expect_eq(body_decode(&b, none, sizeof(none) - 1, &data, &rest, &why), BODY_DONE);
	body_reader_fini(&b);
	body_reader_init(&b, CHUNKED, 0);
	cr_expect_eq(body_decode(&b, text, sizeof(text) - 1, &data, &rest, &why), BODY_BAD);
	cr_expect_eq(why, REASON_BAD_CHUNK);
	body_reader_fini(&b);
}

/* A long trailer section grows in steps, and each step may find no memory. */
Test(body, every_allocation_fails)
{
	static char text[3000];
	size_t n = (size_t)snprintf(text, sizeof(text), "0\r\nX: %02400d\r\n\r\n", 0);
	unsigned long nth;

	for (nth = 1;; nth++) {
		char *copy = malloc(n);
		struct body_reader b;
		size_t data, rest;
		enum body_status status;
		enum reason why;
		bool hit;

		memcpy(copy, text, n);
		body_reader_init(&b, CHUNKED, 32768);
		mem_fault_set(nth, false);
		status = body_decode(&b, copy, n, &data, &rest, &why);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect_eq(status, hit ? BODY_BAD : BODY_DONE);
		cr_expect_eq(why, hit ? REASON_NO_MEMORY : REASON_OK);
		cr_expect_eq(body_decode(&b, copy, 1, &data, &rest, &why), status);
		cr_expect_eq(why, hit ? REASON_NO_MEMORY : REASON_OK, "the answer stays");
		cr_expect_eq(body_trailers(&b).n, hit ? 0 : n - 5);
		body_reader_fini(&b);
		free(copy);
		if (!hit)
			break;
	}
	cr_expect_gt(nth, 4ul);
}

/* --- the other framings ------------------------------------------------------------------------------------------ */

Test(body, lengths)
{
	static const struct {
		struct framing framing;
		const char *text;
		enum body_status status, end;
		size_t data, taken;
	} rows[] = {
		{ { FRAMING_NONE, 0 }, "", BODY_DONE, BODY_DONE, 0, 0 },
		{ { FRAMING_NONE, 0 }, "GET", BODY_DONE, BODY_DONE, 0, 0 },
		{ { FRAMING_LENGTH, 0 }, "", BODY_DONE, BODY_DONE, 0, 0 },
		{ { FRAMING_LENGTH, 0 }, "GET", BODY_DONE, BODY_DONE, 0, 0 },
		{ { FRAMING_LENGTH, 5 }, "", BODY_GOES_ON, BODY_BAD, 0, 0 },
		{ { FRAMING_LENGTH, 5 }, "hell", BODY_GOES_ON, BODY_BAD, 4, 4 },
		{ { FRAMING_LENGTH, 5 }, "hello", BODY_DONE, BODY_DONE, 5, 5 },
		{ { FRAMING_LENGTH, 5 }, "helloGET", BODY_DONE, BODY_DONE, 5, 5 },
		{ { FRAMING_LENGTH, ~0ull }, "5\r\nhello", BODY_GOES_ON, BODY_BAD, 8, 8 },
		{ { FRAMING_CLOSE, 0 }, "", BODY_GOES_ON, BODY_DONE, 0, 0 },
		{ { FRAMING_CLOSE, 0 }, "0\r\n\r\n", BODY_GOES_ON, BODY_DONE, 5, 5 },
		{ { FRAMING_CLOSE, 3 }, "hello", BODY_GOES_ON, BODY_DONE, 5, 5 },
		{ { FRAMING_CHUNKED, 9 }, "1\r\na\r\n0\r\n\r\n", BODY_DONE, BODY_DONE, 1, 11 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct outcome o;

		decode_all_ways(rows[i].text, strlen(rows[i].text), rows[i].framing, &o);
		cr_expect_eq(o.status, rows[i].status, "row %zu", i);
		cr_expect_eq(o.end, rows[i].end, "row %zu", i);
		cr_expect_eq(o.data_n, rows[i].data, "row %zu", i);
		cr_expect_eq(o.taken, rows[i].taken, "row %zu", i);
	}
}

/* Before the first byte came. */
Test(body, ends_at_once)
{
	static const struct framing five = { FRAMING_LENGTH, 5 };
	struct body_reader b;

	body_reader_init(&b, NONE, 0);
	cr_expect_eq(body_end(&b), BODY_DONE);
	body_reader_init(&b, CLOSE, 0);
	cr_expect_eq(body_end(&b), BODY_DONE);
	body_reader_init(&b, five, 0);
	cr_expect_eq(body_end(&b), BODY_BAD);
	body_reader_init(&b, CHUNKED, 0);
	cr_expect_eq(body_end(&b), BODY_BAD);
}

/* Where nothing has to move, nothing is written: the bytes lie in a page that cannot be. */
Test(body, moves_nothing_without_need)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), data, rest;
	const struct framing framings[] = { CLOSE, { FRAMING_LENGTH, 2 * page }, { FRAMING_CHUNKED, 0 } };
	char *bytes = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), size[20];
	struct body_reader b;
	enum reason why;

	cr_assert_neq(bytes, MAP_FAILED);
	for (size_t i = 0; i < COUNT(framings); i++) {
		body_reader_init(&b, framings[i], 0);
		if (framings[i].kind == FRAMING_CHUNKED) {
			int n = snprintf(size, sizeof(size), "%zx\r\n", 2 * page);

			cr_assert_eq(body_decode(&b, size, (size_t)n, &data, &rest, &why), BODY_GOES_ON);
		}
		cr_expect_eq(body_decode(&b, bytes, page, &data, &rest, &why), BODY_GOES_ON);
		cr_expect_eq(data, page);
	}
	munmap(bytes, page);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static size_t add(char *to, size_t at, const char *p, size_t n)
{
	if (n > 0)
		memcpy(to + at, p, n);
	return at + n;
}

Test(body, written_chunks)
{
	static const struct {
		size_t n;
		const char *prefix;
	} rows[] = { { 1, "1\r\n" },	     { 9, "9\r\n" },	   { 10, "a\r\n" },		 { 15, "f\r\n" },
		     { 16, "10\r\n" },	     { 255, "ff\r\n" },	   { 256, "100\r\n" },		 { 65536, "10000\r\n" },
		     { 0xabcdef, "abcdef\r\n" }, { SIZE_MAX, "ffffffffffffffff\r\n" } };
	struct body_writer w;
	struct slice suffix, last, behind;
	char prefix[BODY_PREFIX_MAX];
	size_t n;

	body_writer_init(&w, CHUNKED);
	for (size_t i = 0; i < COUNT(rows); i++) {
		cr_assert(body_encode(&w, rows[i].n, prefix, &n, &suffix));
		cr_expect(slice_eq((struct slice){ prefix, n }, slice_of(rows[i].prefix)), "%zu", rows[i].n);
		cr_expect(slice_eq(suffix, slice_of("\r\n")));
	}
	cr_assert(body_finish(&w, &last, &behind));
	cr_expect(slice_eq(last, slice_of("0\r\n")));
	cr_expect(slice_eq(behind, slice_of("\r\n")));
}

/* What is written in any pieces is read back the same, with its trailers. */
Test(body, round_trip)
{
	static const char text[] = "0\r\n\r\nsome bytes\r\n that look\0 like framing\r\n5\r\n", trailers[] = "A: b\r\nC: d\r\n";

	for (size_t step = 1; step <= sizeof(text); step++) {
		struct body_writer w;
		struct slice suffix, last, behind;
		char prefix[BODY_PREFIX_MAX], out[1000];
		size_t n = 0, prefix_n;
		struct outcome o;

		body_writer_init(&w, CHUNKED);
		for (size_t at = 0; at < sizeof(text); at += step) {
			size_t piece = step < sizeof(text) - at ? step : sizeof(text) - at;

			cr_assert(body_encode(&w, piece, prefix, &prefix_n, &suffix));
			n = add(out, n, prefix, prefix_n);
			n = add(out, n, text + at, piece);
			n = add(out, n, suffix.p, suffix.n);
		}
		cr_assert(body_finish(&w, &last, &behind));
		n = add(out, n, last.p, last.n);
		n = add(out, n, trailers, sizeof(trailers) - 1);
		n = add(out, n, behind.p, behind.n);
		decode(out, n, CHUNKED, n, n, &o);
		cr_expect_eq(o.status, BODY_DONE);
		cr_expect_eq(o.taken, n);
		cr_expect(o.data_n == sizeof(text) && memcmp(o.data, text, sizeof(text)) == 0);
		cr_expect(slice_eq((struct slice){ o.trailers, o.trailers_n }, slice_of(trailers)));
	}
}

/* A message that is shorter or longer than announced is not finished as if it were whole. */
Test(body, written_lengths)
{
	static const struct framing five = { FRAMING_LENGTH, 5 }, empty = { FRAMING_LENGTH, 0 };
	struct body_writer w;
	struct slice suffix, last, behind;
	char prefix[BODY_PREFIX_MAX];
	size_t n;

	body_writer_init(&w, five);
	cr_expect_not(body_finish(&w, &last, &behind));
	cr_expect(body_encode(&w, 4, prefix, &n, &suffix));
	cr_expect(n == 0 && suffix.n == 0);
	cr_expect_not(body_finish(&w, &last, &behind));
	cr_expect_not(body_encode(&w, 2, prefix, &n, &suffix));
	cr_expect(body_encode(&w, 1, prefix, &n, &suffix));
	cr_expect(body_finish(&w, &last, &behind));
	cr_expect(last.n == 0 && behind.n == 0);
	cr_expect_not(body_encode(&w, 1, prefix, &n, &suffix));

	body_writer_init(&w, empty);
	cr_expect(body_finish(&w, &last, &behind));
	cr_expect_not(body_encode(&w, 1, prefix, &n, &suffix));
	body_writer_init(&w, NONE);
	cr_expect(body_finish(&w, &last, &behind));
	cr_expect_not(body_encode(&w, 1, prefix, &n, &suffix));
	body_writer_init(&w, CLOSE);
	cr_expect(body_encode(&w, 1 << 20, prefix, &n, &suffix));
	cr_expect(n == 0 && suffix.n == 0);
	cr_expect(body_finish(&w, &last, &behind));
	cr_expect(last.n == 0 && behind.n == 0);
}
