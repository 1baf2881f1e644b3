/* The heads of responses: what is taken and what is refused, where their bodies end, and that none of it depends on how
 * the bytes were cut. Inputs are exact copies on the heap, where the sanitizer sees a byte too many. */
#include "adit/http/forward.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define TEXT(literal) literal, sizeof(literal) - 1
#define OK "HTTP/1.1 200 OK\r\n"

static const struct head_limits LIMITS = { .request_line_bytes = 100, .head_bytes = 300, .fields = 6 };

/* --- how a head is fed ------------------------------------------------------------------------------------------- */

struct outcome {
	enum head_status status;
	enum reason why;
	struct response_head head; /* its slices are gone */
	char phrase[200], fields[400];
	char text[1000]; /* all that can be said about it, for comparing */
};

static void feed(struct response_parser *p, const char *text, size_t n, const struct head_limits *limits,
		 struct outcome *o)
{
	char *buf = malloc(n ? n : 1);
	const struct response_head *h = &o->head;

	cr_assert(buf);
	if (n > 0)
		memcpy(buf, text, n);
	memset(o, 0, sizeof(*o));
	o->status = response_parse(p, buf, n, limits, &o->head, &o->why);
	cr_assert_eq(response_parse(p, buf, n, limits, &o->head, &o->why), o->status, "the answer stays");
	cr_assert_eq(o->status == HEAD_BAD, o->why != REASON_OK);
	if (o->status == HEAD_DONE) {
		snprintf(o->phrase, sizeof(o->phrase), SLICE_FMT, SLICE_ARG(h->reason_phrase));
		snprintf(o->fields, sizeof(o->fields), SLICE_FMT, SLICE_ARG(h->fields));
	}
	snprintf(o->text, sizeof(o->text), "%d %s %d %u %d %d %d %llu %zu '%s' '%s'", (int)o->status, reason_name(o->why),
		 h->status, h->minor_version, h->keep_alive, h->upgrade, (int)h->framing.kind, h->framing.length,
		 h->head_bytes, o->phrase, o->fields);
	free(buf);
}

/* Whole; byte by byte; in two for every cut. */
static void parse(const char *text, size_t n, enum head_method method, const struct head_limits *limits,
		  struct outcome *whole)
{
	struct response_parser p, bytes;
	struct outcome o;

	response_parser_init(&p, method);
	feed(&p, text, n, limits, whole);
	response_parser_init(&bytes, method);
	for (size_t cut = 0; cut <= n; cut++) {
		bool answered;

		response_parser_init(&p, method);
		feed(&p, text, cut, limits, &o);
		answered = o.status != HEAD_PARTIAL;
		if (answered)
			cr_assert_str_eq(o.text, whole->text, "cut at %zu: %s", cut, text);
		feed(&p, text, n, limits, &o);
		cr_assert_str_eq(o.text, whole->text, "cut at %zu: %s", cut, text);
		feed(&bytes, text, cut, limits, &o);
		cr_assert_eq(o.status != HEAD_PARTIAL, answered, "byte by byte at %zu: %s", cut, text);
		if (answered)
			cr_assert_str_eq(o.text, whole->text, "byte by byte at %zu: %s", cut, text);
	}
}

/* --- what is refused --------------------------------------------------------------------------------------------- */

static const struct {
	const char *text;
	size_t n;
} BAD[] = {
	/* status line */
	{ TEXT("\r\n" OK "\r\n") },
	{ TEXT("\n") },
	{ TEXT(" " OK "\r\n") },
	{ TEXT("HTTP/1.1\r\n") },
	{ TEXT("HTTP/1.1 \r\n") },
	{ TEXT("HTTP/1.1 20\r\n") },
	{ TEXT("HTTP/1.1 2000\r\n") },
	{ TEXT("HTTP/1.1 200OK\r\n") },
	{ TEXT("HTTP/1.1 200\tOK\r\n") },
	{ TEXT("HTTP/1.1\t200 OK\r\n") },
	{ TEXT("HTTP/1.1  200 OK\r\n") },
	{ TEXT("HTTP/1.1 20 OK\r\n") },
	{ TEXT("HTTP/1.1 2x0 OK\r\n") },
	{ TEXT("HTTP/1.1 +20 OK\r\n") },
	{ TEXT("HTTP/1.1 -20 OK\r\n") },
	{ TEXT("HTTP/1.1 0xc OK\r\n") },
	{ TEXT("HTTP/1.1 099 OK\r\n") },
	{ TEXT("HTTP/1.1 000 OK\r\n") },
	{ TEXT("HTTP/1.1 600 OK\r\n") },
	{ TEXT("HTTP/1.1 999 OK\r\n") },
	{ TEXT("http/1.1 200 OK\r\n") },
	{ TEXT("HTTP/1 200 OK\r\n") },
	{ TEXT("HTTP/1.10 200 OK\r\n") },
	{ TEXT("HTTP/2 200 OK\r\n") },
	{ TEXT("HTTP/2.0 200 OK\r\n") },
	{ TEXT("HTTP/0.9 200 OK\r\n") },
	{ TEXT("ICY 200 OK\r\n") },
	{ TEXT("SSH-2.0-OpenSSH_9.2\r\n") },
	{ TEXT("220 mail.example ESMTP\r\n") },
	{ TEXT("<html>\r\n") },
	{ TEXT("\x15\x03\x01\0\x02\x02") },
	{ TEXT("GET / HTTP/1.1\r\nHost: a\r\n\r\n") },
	{ TEXT("HTTP/1.1 200 O\0K\r\n") },
	{ TEXT("HTTP/1.1 200 O\x1bK\r\n") },
	{ TEXT("HTTP/1.1 200 O\x7fK\r\n") },
	{ TEXT("HTTP/1.1 200 OK\n") },
	{ TEXT("HTTP/1.1 200 OK\rX") },

	/* fields: the parser is the requests', so a sample of each kind */
	{ TEXT(OK "X: a\n\r\n") },
	{ TEXT(OK "X: a\rb\r\n\r\n") },
	{ TEXT(OK "X: a\0b\r\n\r\n") },
	{ TEXT(OK " X: a\r\n\r\n") },
	{ TEXT(OK "X: a\r\n b\r\n\r\n") },
	{ TEXT(OK "X : a\r\n\r\n") },
	{ TEXT(OK ": a\r\n\r\n") },
	{ TEXT(OK "X\r\n\r\n") },
	{ TEXT(OK "X y: a\r\n\r\n") },
	{ TEXT(OK "\n") },

	/* two readings of where the body ends */
	{ TEXT(OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\n") },
	{ TEXT(OK "Content-Length: 5, 5\r\n\r\n") },
	{ TEXT(OK "Content-Length: 5, 6\r\n\r\n") },
	{ TEXT(OK "Content-Length:\r\n\r\n") },
	{ TEXT(OK "Content-Length: -1\r\n\r\n") },
	{ TEXT(OK "Content-Length: +5\r\n\r\n") },
	{ TEXT(OK "Content-Length: 5 \xc2\xa0\r\n\r\n") },
	{ TEXT(OK "Content-Length: 0x5\r\n\r\n") },
	{ TEXT(OK "Content-Length: 18446744073709551616\r\n\r\n") },
	{ TEXT(OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked, chunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: gzip, chunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked, gzip\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: gzip\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: identity\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding:\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: xchunked\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: chunked;q=1\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: \"chunked\"\r\n\r\n") },
	{ TEXT(OK "Transfer-Encoding: \x0b" "chunked\r\n\r\n") },
	{ TEXT("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") },

	/* interim responses have no body; another protocol is none that was not asked for */
	{ TEXT("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n") },
	{ TEXT("HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n") },
	{ TEXT("HTTP/1.1 101 Switching Protocols\r\n\r\n") },
	{ TEXT("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n") },
	{ TEXT("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n") },
	{ TEXT("HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n") },
};

Test(response_head, refused)
{
	static const enum head_method methods[] = { HEAD_GET, HEAD_HEAD, HEAD_OTHER };

	for (size_t i = 0; i < COUNT(BAD); i++)
		for (size_t k = 0; k < COUNT(methods); k++) {
			struct outcome o;

			parse(BAD[i].text, BAD[i].n, methods[k], &LIMITS, &o);
			cr_expect_eq(o.status, HEAD_BAD, "%s", BAD[i].text);
			cr_expect_eq(o.why, REASON_RESPONSE_INVALID, "%s: %s", BAD[i].text, reason_name(o.why));
			cr_expect(o.head.status == 0 && o.head.head_bytes == 0, "%s", BAD[i].text);
		}
}

/* --- what is taken ----------------------------------------------------------------------------------------------- */

enum { NO = FRAMING_NONE, LENGTH = FRAMING_LENGTH, CHUNKED = FRAMING_CHUNKED, CLOSE = FRAMING_CLOSE };

static const struct {
	const char *text;
	size_t n;
	enum head_method method;
	int status;
	const char *phrase, *fields;
	int framing;
	unsigned long long length;
	bool keep_alive;
	size_t rest; /* bytes behind the head */
} GOOD[] = {
	{ TEXT(OK "Content-Length: 5\r\n\r\nhello"), HEAD_GET, 200, "OK", "Content-Length: 5\r\n", LENGTH, 5, true, 5 },
	{ TEXT(OK "content-length: 0\r\n\r\n"), HEAD_GET, 200, "OK", "content-length: 0\r\n", LENGTH, 0, true, 0 },
	{ TEXT(OK "Content-Length: 5\r\nContent-Length: 05\r\n\r\n"), HEAD_POST, 200, "OK",
	  "Content-Length: 5\r\nContent-Length: 05\r\n", LENGTH, 5, true, 0 },
	{ TEXT(OK "Content-Length: 18446744073709551615\r\n\r\n"), HEAD_GET, 200, "OK",
	  "Content-Length: 18446744073709551615\r\n", LENGTH, ~0ull, true, 0 },
	{ TEXT(OK "transfer-encoding:\tCHUNKED \r\n\r\n0\r\n\r\n"), HEAD_GET, 200, "OK", "transfer-encoding:\tCHUNKED \r\n",
	  CHUNKED, 0, true, 5 },
	{ TEXT(OK "\r\n"), HEAD_GET, 200, "OK", "", CLOSE, 0, false, 0 },
	{ TEXT(OK "Connection: close\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 200, "OK",
	  "Connection: close\r\nContent-Length: 5\r\n", LENGTH, 5, false, 0 },
	{ TEXT(OK "Connection: x\r\nConnection: y ,\tClose\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 200, "OK",
	  "Connection: x\r\nConnection: y ,\tClose\r\nContent-Length: 5\r\n", LENGTH, 5, false, 0 },
	{ TEXT("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 200, "OK", "Content-Length: 5\r\n", LENGTH, 5, false,
	  0 },
	{ TEXT("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 200, "OK",
	  "Connection: keep-alive\r\nContent-Length: 5\r\n", LENGTH, 5, false, 0 },
	{ TEXT("HTTP/1.0 200 OK\r\n\r\n"), HEAD_GET, 200, "OK", "", CLOSE, 0, false, 0 },
	{ TEXT("HTTP/1.7 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), HEAD_GET, 200, "OK", "Transfer-Encoding: chunked\r\n",
	  CHUNKED, 0, true, 0 },

	/* reason phrases */
	{ TEXT("HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n"), HEAD_GET, 404, "", "Content-Length: 0\r\n", LENGTH, 0, true, 0 },
	{ TEXT("HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n"), HEAD_GET, 404, "", "Content-Length: 0\r\n", LENGTH, 0, true, 0 },
	{ TEXT("HTTP/1.1 599 \xc3\xa9t\xff \t: HTTP/1.1 200  \r\nContent-Length: 0\r\n\r\n"), HEAD_GET, 599,
	  "\xc3\xa9t\xff \t: HTTP/1.1 200  ", "Content-Length: 0\r\n", LENGTH, 0, true, 0 },

	/* without a body, whatever the fields say */
	{ TEXT(OK "Content-Length: 5\r\n\r\n"), HEAD_HEAD, 200, "OK", "Content-Length: 5\r\n", NO, 0, true, 0 },
	{ TEXT(OK "Transfer-Encoding: chunked\r\n\r\n"), HEAD_HEAD, 200, "OK", "Transfer-Encoding: chunked\r\n", NO, 0, true,
	  0 },
	{ TEXT(OK "\r\n"), HEAD_HEAD, 200, "OK", "", NO, 0, true, 0 },
	{ TEXT("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 304, "Not Modified",
	  "Content-Length: 5\r\n", NO, 0, true, 0 },
	{ TEXT("HTTP/1.1 304 Not Modified\r\n\r\n"), HEAD_GET, 304, "Not Modified", "", NO, 0, true, 0 },
	{ TEXT("HTTP/1.1 204 No Content\r\n\r\n"), HEAD_DELETE, 204, "No Content", "", NO, 0, true, 0 },
	{ TEXT("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), HEAD_GET, 204, "No Content", "Content-Length: 0\r\n",
	  NO, 0, true, 0 },
	/* nobody knows what comes behind these */
	{ TEXT("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), HEAD_GET, 204, "No Content", "Content-Length: 5\r\n",
	  NO, 0, false, 0 },
	{ TEXT("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), HEAD_GET, 204, "No Content",
	  "Transfer-Encoding: chunked\r\n", NO, 0, false, 5 },

	/* interim */
	{ TEXT("HTTP/1.1 100 Continue\r\n\r\n" OK), HEAD_POST, 100, "Continue", "", NO, 0, true, sizeof(OK) - 1 },
	{ TEXT("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n"), HEAD_GET, 103, "Early Hints",
	  "Link: </a>\r\nContent-Length: 0\r\n", NO, 0, true, 0 },
	{ TEXT("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81"), HEAD_GET, 101,
	  "Switching Protocols", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n", CLOSE, 0, false, 1 },
};

Test(response_head, taken)
{
	for (size_t i = 0; i < COUNT(GOOD); i++) {
		const char *text = GOOD[i].text;
		struct outcome o;

		parse(text, GOOD[i].n, GOOD[i].method, &LIMITS, &o);
		cr_assert_eq(o.status, HEAD_DONE, "%s", text);
		cr_expect_eq(o.head.status, GOOD[i].status, "%s", text);
		cr_expect_eq(o.head.minor_version, text[7] == '0' ? 0 : 1, "%s", text);
		cr_expect_str_eq(o.phrase, GOOD[i].phrase, "%s", text);
		cr_expect_str_eq(o.fields, GOOD[i].fields, "%s", text);
		cr_expect_eq((int)o.head.framing.kind, GOOD[i].framing, "%s", text);
		cr_expect_eq(o.head.framing.length, GOOD[i].length, "%s", text);
		cr_expect_eq(o.head.keep_alive, GOOD[i].keep_alive, "%s", text);
		cr_expect_eq(o.head.upgrade, GOOD[i].status == 101, "%s", text);
		cr_expect_eq(o.head.head_bytes, GOOD[i].n - GOOD[i].rest, "%s", text);
		for (size_t n = 0; n < GOOD[i].n - GOOD[i].rest; n++) {
			struct response_parser p;

			response_parser_init(&p, GOOD[i].method);
			feed(&p, text, n, &LIMITS, &o);
			cr_assert_eq(o.status, HEAD_PARTIAL, "%.*s", (int)n, text);
		}
	}
}

/* --- limits ------------------------------------------------------------------------------------------------------ */

/* Each limit at the last size that passes and the first that does not. */
Test(response_head, limits)
{
	static const char text[] = OK "A: a\r\nConnection: close\r\n\r\n"; /* line 15, head 44, fields 2 */
	static const struct {
		struct head_limits limits;
		enum reason why;
	} rows[] = {
		{ { 15, 44, 2 }, REASON_OK },
		{ { 14, 44, 2 }, REASON_RESPONSE_TOO_LARGE },
		{ { 15, 43, 2 }, REASON_RESPONSE_TOO_LARGE },
		{ { 15, 44, 1 }, REASON_RESPONSE_TOO_LARGE },
		{ { 0, 0, 0 }, REASON_RESPONSE_TOO_LARGE },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct outcome o;

		parse(TEXT(text), HEAD_GET, &rows[i].limits, &o);
		cr_expect_eq(o.why, rows[i].why, "row %zu: %s", i, reason_name(o.why));
	}
}

/* Neither a head without end nor a Connection without end is read to its end. */
Test(response_head, endless)
{
	static const struct head_limits wide = { 1000, 4000, 100 };
	char text[1000];
	struct outcome o;
	int n;

	memset(text, 'x', sizeof(text));
	memcpy(text, TEXT(OK "X: "));
	parse(text, LIMITS.head_bytes, HEAD_GET, &LIMITS, &o);
	cr_expect_eq(o.why, REASON_RESPONSE_TOO_LARGE);
	parse(text, LIMITS.head_bytes - 1, HEAD_GET, &LIMITS, &o);
	cr_expect_eq(o.status, HEAD_PARTIAL);

	for (int options = HEAD_OPTIONS_MAX; options <= HEAD_OPTIONS_MAX + 1; options++) {
		n = snprintf(text, sizeof(text), OK "Connection: close\r\nConnection: a");
		for (int i = 2; i < options; i++)
			n += snprintf(text + n, sizeof(text) - (size_t)n, ",b");
		n += snprintf(text + n, sizeof(text) - (size_t)n, "\r\n\r\n");
		parse(text, (size_t)n, HEAD_GET, &wide, &o);
		cr_expect_eq(o.why, options == HEAD_OPTIONS_MAX ? REASON_OK : REASON_RESPONSE_TOO_LARGE);
	}
}

/* Every byte at every place of a good head: never a crash, and the same answer however it is cut. */
Test(response_head, every_byte_everywhere)
{
	static const char text[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

	for (size_t at = 0; at < sizeof(text) - 1; at++)
		for (int c = 0; c < 256; c++) {
			char changed[sizeof(text)];
			struct response_parser p;
			struct outcome whole, o;

			memcpy(changed, text, sizeof(text));
			changed[at] = (char)c;
			response_parser_init(&p, HEAD_GET);
			feed(&p, changed, sizeof(text) - 1, &LIMITS, &whole);
			response_parser_init(&p, HEAD_GET);
			feed(&p, changed, at, &LIMITS, &o);
			feed(&p, changed, at + 1, &LIMITS, &o);
			feed(&p, changed, sizeof(text) - 1, &LIMITS, &o);
			cr_assert_str_eq(o.text, whole.text);
			if (c == 0 || c == 0x7f)
				cr_assert_eq(whole.status, HEAD_BAD);
		}
}
