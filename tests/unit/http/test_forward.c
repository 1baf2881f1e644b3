/* What becomes of a head on its way: the request that goes to the target, byte for byte, and the fields of the response
 * that come back. Each is written into exactly the room it needs, and into less. */
#include "adit/http/forward.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define GET(fields) "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" fields "\r\n"
#define SENT(fields) "GET / HTTP/1.1\r\nHost: a.example\r\n" fields "\r\n"
#define VIA "Via: 1.1 adit\r\n"

static const struct head_limits LIMITS = { .request_line_bytes = 8192, .head_bytes = 65536, .fields = 1000 };

static bool parse_n(const char *text, size_t n, struct head *head, enum reason *why)
{
	struct head_parser p;

	head_init(&p);
	return head_parse(&p, text, n, &LIMITS, head, why) == HEAD_DONE && head->head_bytes == n;
}

static struct head parse(const char *text)
{
	struct head head;
	enum reason why;

	cr_assert(parse_n(text, strlen(text), &head, &why), "%s: %s", text, reason_name(why));
	return head;
}

static struct forward_options options_of(const struct head *head)
{
	return (struct forward_options){ .protocol = head->minor_version == 0 ? "1.0" : "1.1",
					 .framing = forward_request_framing(head),
					 .keep_alive = true };
}

/* Writes with all the room there is, with exactly enough, and with too little in every way. */
static char *written(const struct head *head, const struct forward_options *options)
{
	size_t room = forward_room(head), n;
	char *text = malloc(room + 1), *exact;

	n = forward_request_head(head, options, text, room);
	cr_assert_gt(n, 0u, "forward_room is too little");
	text[n] = '\0';
	exact = malloc(n);
	cr_assert_eq(forward_request_head(head, options, exact, n), n);
	cr_assert_eq(memcmp(exact, text, n), 0);
	for (size_t less = n > 2000 ? n - 1 : 0; less < n; less++)
		cr_assert_eq(forward_request_head(head, options, exact, less), 0u);
	free(exact);
	return text;
}

static void expect_forwarded(const char *from, const struct forward_options *options, const char *to)
{
	struct head head = parse(from), again;
	struct forward_options own = options_of(&head);
	char *text = written(&head, options ? options : &own);
	enum reason why;

	cr_expect_str_eq(text, to, "from %s", from);
	cr_expect(parse_n(text, strlen(text), &again, &why), "%s: %s", text, reason_name(why));
	free(text);
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

static const struct {
	const char *from, *to;
} REQUESTS[] = {
	/* the request line and Host */
	{ "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example/x/y?z=http://b/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
	  "GET /x/y?z=http://b/ HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example?q HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example//x HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET //x HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example:80/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://A.Example.:8080/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example:8080\r\n" VIA "\r\n" },
	{ "GET http://[2001:DB8::1]/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n" VIA "\r\n" },
	{ "GET http://[::1]:81/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: [::1]:81\r\n" VIA "\r\n" },
	{ "GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" VIA "\r\n" },
	{ "GET http://a.example/ HTTP/1.1\r\nAccept: x\r\nHost: internal.example\r\nX: y\r\n\r\n",
	  SENT("Accept: x\r\nX: y\r\n" VIA) },
	{ "GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n", SENT(VIA) },
	{ "M-SEARCH http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", "M-SEARCH / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "OPTIONS http://a.example HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "OPTIONS http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "OPTIONS http://a.example?q HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS /?q HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },
	{ "GET http://a.example/ HTTP/1.0\r\n\r\n", SENT("Via: 1.0 adit\r\n") },
	{ "GET http://a.example/ HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
	  SENT("Via: 1.0 adit\r\n") },

	/* end-to-end fields pass as they are, in their order */
	{ GET("B: 1\r\nA: 2\r\nb:3\r\nC:\r\nD: \t \r\nE: x \t y \t\r\nAuthorization: Basic YTpi\r\n"),
	  SENT("B: 1\r\nA: 2\r\nb:3\r\nC:\r\nD:\r\nE: x \t y\r\nAuthorization: Basic YTpi\r\n" VIA) },
	{ GET("X: \xc3\xa9\xff\r\n"), SENT("X: \xc3\xa9\xff\r\n" VIA) },

	/* hop-by-hop ones do not */
	{ GET("Proxy-Authorization: Basic YTpi\r\n"), SENT(VIA) },
	{ GET("PROXY-authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: x\r\n"
	      "Proxy-Authentication-Info: x\r\nKeep-Alive: 5\r\nTE: trailers\r\nHTTP2-Settings: x\r\nUpgrade: h2c\r\n"),
	  SENT(VIA) },
	{ GET("Connection: keep-alive, TE\r\nTE: trailers\r\n"), SENT(VIA) },
	{ GET("Connection: close\r\nClose: x\r\n"), SENT(VIA) },
	{ GET("X-One: 1\r\nConnection: ,x-one,, \tX-TWO\t,\r\nX-Two: 2\r\nX-Three: 3\r\nconnection: x-three\r\n"), SENT(VIA) },
	{ GET("Connection: x-one x-two\r\nX-One: 1\r\nX-Two: 2\r\n"), SENT("X-One: 1\r\nX-Two: 2\r\n" VIA) },
	{ GET("Connection: x-on\r\nX-One: 1\r\nX-O: 2\r\n"), SENT("X-One: 1\r\nX-O: 2\r\n" VIA) },
	/* and Connection takes nothing away that the target needs */
	{ GET("Connection: Host, Content-Length, Transfer-Encoding, Via\r\nContent-Length: 5\r\nVia: 1.1 b\r\n"),
	  SENT("Via: 1.1 b\r\n" VIA "Content-Length: 5\r\n") },
	{ GET("Connection: Content-Type, Authorization, Cookie, Cache-Control, Expect, Range, If-Match, Date\r\n"
	      "Content-Type: t\r\nAuthorization: a\r\nCookie: c\r\nCache-Control: n\r\nRange: r\r\nIf-Match: i\r\nDate: d\r\n"),
	  SENT("Content-Type: t\r\nAuthorization: a\r\nCookie: c\r\nCache-Control: n\r\nRange: r\r\nIf-Match: i\r\nDate: d\r\n"
	       VIA) },

	/* framing is written anew, once */
	{ "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 000\r\n\r\n",
	  "POST / HTTP/1.1\r\nHost: a.example\r\n" VIA "Content-Length: 0\r\n\r\n" },
	{ "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n",
	  "POST / HTTP/1.1\r\nHost: a.example\r\n" VIA "Content-Length: 18446744073709551615\r\n\r\n" },
	{ "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \tCHUNKED \r\nTrailer: X\r\n\r\n",
	  "POST / HTTP/1.1\r\nHost: a.example\r\nTrailer: X\r\n" VIA "Transfer-Encoding: chunked\r\n\r\n" },
	{ "POST http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.example\r\n" VIA "\r\n" },

	/* Expect passes, but not out of a version that does not know it */
	{ "PUT http://a.example/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	  "PUT / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\n" VIA "Content-Length: 9\r\n\r\n" },
	{ "PUT http://a.example/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	  "PUT / HTTP/1.1\r\nHost: a.example\r\nVia: 1.0 adit\r\nContent-Length: 9\r\n\r\n" },

	/* Via grows at its end */
	{ GET("Via: 1.0 fred\r\nX: y\r\nvia: 1.1 b.example (c), 2 d\r\n"),
	  SENT("Via: 1.0 fred\r\nX: y\r\nvia: 1.1 b.example (c), 2 d\r\n" VIA) },

	/* Max-Forwards */
	{ GET("Max-Forwards: 5\r\n"), SENT(VIA) },
	{ "OPTIONS http://a.example/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 5\r\n\r\n",
	  "OPTIONS / HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 4\r\n" VIA "\r\n" },
	{ "TRACE http://a.example/ HTTP/1.1\r\nHost: x\r\nmax-forwards: 001\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
	  "TRACE / HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n" VIA "\r\n" },
	{ "TRACE http://a.example/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 99999999999999999999999\r\n\r\n",
	  "TRACE / HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 2147483647\r\n" VIA "\r\n" },

	/* Cookie in pieces, as HTTP/2 has it */
	{ GET("cookie: a=1\r\nX: y\r\nCookie:b=2\r\ncookie:\r\ncookie: c=3\r\n"), SENT("Cookie: a=1; b=2; c=3\r\nX: y\r\n" VIA) },
	{ GET("Cookie:\r\nCookie: b=2\r\n"), SENT("Cookie: b=2\r\n" VIA) },
	{ GET("Cookie:a\r\n"), SENT("Cookie: a\r\n" VIA) },

	/* what looks like a line of its own in a value stays in it */
	{ GET("X: y Transfer-Encoding: chunked\r\n"), SENT("X: y Transfer-Encoding: chunked\r\n" VIA) },
};

Test(forward, requests)
{
	for (size_t i = 0; i < COUNT(REQUESTS); i++)
		expect_forwarded(REQUESTS[i].from, NULL, REQUESTS[i].to);
}

Test(forward, options)
{
	static const char ws[] = GET("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
	static const char plain[] = GET("x: y\r\n");
	static const struct {
		struct forward_options options;
		const char *from, *to;
	} rows[] = {
		{ { "1.1", { FRAMING_NONE, 0 }, true, true }, ws,
		  SENT("Sec-WebSocket-Version: 13\r\n" VIA "Upgrade: websocket\r\nConnection: upgrade\r\n") },
		{ { "1.1", { FRAMING_NONE, 0 }, true, false }, ws,
		  SENT("Sec-WebSocket-Version: 13\r\n" VIA "Upgrade: websocket\r\nConnection: upgrade, close\r\n") },
		{ { "1.1", { FRAMING_NONE, 0 }, false, true }, ws, SENT("Sec-WebSocket-Version: 13\r\n" VIA) },
		{ { "2", { FRAMING_NONE, 0 }, false, true }, plain, SENT("x: y\r\nVia: 2 adit\r\n") },
		/* as HTTP/2 has it: chunked, and no field that says so */
		{ { "2", { FRAMING_CHUNKED, 0 }, false, false }, plain,
		  SENT("x: y\r\nVia: 2 adit\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n") },
		{ { "2", { FRAMING_LENGTH, 7 }, false, true }, plain, SENT("x: y\r\nVia: 2 adit\r\nContent-Length: 7\r\n") },
	};

	for (size_t i = 0; i < COUNT(rows); i++)
		expect_forwarded(rows[i].from, &rows[i].options, rows[i].to);
}

Test(forward, framing_of_requests)
{
	struct head head = parse(GET(""));

	cr_expect_eq(forward_request_framing(&head).kind, FRAMING_NONE);
	head.chunked = true; /* HTTP/2, without a field */
	cr_expect_eq(forward_request_framing(&head).kind, FRAMING_CHUNKED);
	head = parse(GET("Transfer-Encoding: chunked\r\n"));
	cr_expect_eq(forward_request_framing(&head).kind, FRAMING_CHUNKED);
	head = parse(GET("Content-Length: 0\r\n"));
	cr_expect_eq(forward_request_framing(&head).kind, FRAMING_LENGTH);
	cr_expect_eq(forward_request_framing(&head).length, 0u);
	head = parse(GET("Content-Length: 77\r\n"));
	cr_expect_eq(forward_request_framing(&head).length, 77u);
}

/* CL.TE, TE.CL and their kin never come so far as to be forwarded: the parser of heads refuses them. */
Test(forward, smuggling_is_refused)
{
	static const struct {
		const char *text;
		enum reason why;
	} rows[] = {
		{ GET("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked, chunked\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: gzip, chunked\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: chunked, gzip\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: identity\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding: x\"chunked\"\r\n"), REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding:\r\n"), REASON_TRANSFER_ENCODING },
		{ "POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", REASON_TRANSFER_ENCODING },
		{ GET("Transfer-Encoding : chunked\r\n"), REASON_BAD_FIELD_NAME },
		{ GET("Transfer-Encoding\t: chunked\r\n"), REASON_BAD_FIELD_NAME },
		{ GET("X: y\r\n Transfer-Encoding: chunked\r\n"), REASON_OBS_FOLD },
		{ GET("X: y\nTransfer-Encoding: chunked\r\n"), REASON_BARE_LF },
		{ GET("X: y\rTransfer-Encoding: chunked\r\n"), REASON_BARE_CR },
		{ GET("Transfer-Encoding: \x0b" "chunked\r\n"), REASON_FORBIDDEN_BYTE },
		{ GET("Content-Length: 5\r\nContent-Length: 6\r\n"), REASON_BAD_CONTENT_LENGTH },
		{ GET("Content-Length: 5, 5\r\n"), REASON_BAD_CONTENT_LENGTH },
		{ GET("Content-Length: 0x5\r\n"), REASON_BAD_CONTENT_LENGTH },
		{ GET("Content-Length: +5\r\n"), REASON_BAD_CONTENT_LENGTH },
		{ GET("Content-Length: 5 5\r\n"), REASON_BAD_CONTENT_LENGTH },
		{ GET("Host: b.example\r\n"), REASON_HOST_DUPLICATE },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct head head;
		enum reason why;

		cr_expect_not(parse_n(rows[i].text, strlen(rows[i].text), &head, &why), "%s", rows[i].text);
		cr_expect_eq(why, rows[i].why, "%s: %s", rows[i].text, reason_name(why));
	}
}

Test(forward, upgrades)
{
	static const struct {
		const char *text;
		bool wants;
	} rows[] = {
		{ GET("Connection: Upgrade\r\nUpgrade: websocket\r\n"), true },
		{ GET("upgrade: WebSocket\r\nX: y\r\nconnection: keep-alive, UPGRADE\r\nContent-Length: 0\r\n"), true },
		{ GET("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n"), true },
		{ GET("Upgrade: websocket\r\n"), false },
		{ GET("Connection: upgrade\r\n"), false },
		{ GET("Connection: keep-alive\r\nUpgrade: websocket\r\n"), false },
		{ GET("Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"), false },
		{ GET("Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"), false },
		{ GET("Connection: upgrade\r\nUpgrade: websockets\r\n"), false },
		{ GET("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n"), false },
		{ GET("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"), false },
		{ "GET http://a/ HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct head head = parse(rows[i].text);

		cr_expect_eq(forward_wants_upgrade(&head), rows[i].wants, "%s", rows[i].text);
	}
}

Test(forward, max_forwards)
{
	static const struct {
		const char *method, *fields;
		enum reason why;
		bool has, zero;
		unsigned long long left;
	} rows[] = {
		{ "OPTIONS", "", REASON_OK, false, false, 0 },
		{ "OPTIONS", "Max-Forwards: 0\r\n", REASON_OK, true, true, 0 },
		{ "TRACE", "max-forwards:\t000 \r\n", REASON_OK, true, true, 0 },
		{ "TRACE", "Max-Forwards: 1\r\n", REASON_OK, true, false, 0 },
		{ "TRACE", "Max-Forwards: 10\r\n", REASON_OK, true, false, 9 },
		{ "TRACE", "Max-Forwards: 2147483647\r\n", REASON_OK, true, false, 2147483646 },
		{ "TRACE", "Max-Forwards: 2147483648\r\n", REASON_OK, true, false, 2147483647 },
		{ "TRACE", "Max-Forwards: 2147483649\r\n", REASON_OK, true, false, 2147483647 },
		{ "TRACE", "Max-Forwards: 18446744073709551616\r\n", REASON_OK, true, false, 2147483647 },
		{ "TRACE", "Max-Forwards: 99999999999999999999999999999999\r\n", REASON_OK, true, false, 2147483647 },
		{ "TRACE", "Max-Forwards:\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "TRACE", "Max-Forwards: -1\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "TRACE", "Max-Forwards: +1\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "OPTIONS", "Max-Forwards: 1.0\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "OPTIONS", "Max-Forwards: 0x1\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "OPTIONS", "Max-Forwards: 1, 1\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "OPTIONS", "Max-Forwards: 0\r\nMax-Forwards: 0\r\n", REASON_MAX_FORWARDS_INVALID, true, true, 0 },
		{ "OPTIONS", "Max-Forwards: none\r\n", REASON_MAX_FORWARDS_INVALID, false, false, 0 },
		{ "GET", "Max-Forwards: 0\r\n", REASON_OK, false, false, 0 },
		{ "POST", "Max-Forwards: none\r\n", REASON_OK, false, false, 0 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char text[200];
		struct head head;
		struct forward_hops hops;

		snprintf(text, sizeof(text), "%s http://a/ HTTP/1.1\r\nHost: a\r\n%s\r\n", rows[i].method, rows[i].fields);
		head = parse(text);
		cr_expect_eq(forward_max_forwards(&head, &hops), rows[i].why, "%s", text);
		cr_expect(hops.has == rows[i].has && hops.zero == rows[i].zero && hops.left == rows[i].left, "%s", text);
	}
}

/* The longest of everything that is added finds its room. */
Test(forward, room)
{
	char name[HOST_TEXT_MAX + 1], text[1000];
	struct head head;
	struct forward_options options = { "12345678", { FRAMING_LENGTH, ~0ull }, true, false };

	for (size_t i = 0; i < HOST_TEXT_MAX; i++)
		name[i] = i % 50 == 49 ? '.' : 'a';
	name[HOST_TEXT_MAX] = '\0';
	snprintf(text, sizeof(text),
		 "TRACE http://%s:65535 HTTP/1.1\r\nHost:\r\nMax-Forwards: 9999999999\r\nCookie:\r\nCookie:b\r\nA:\r\n\r\n", name);
	head = parse(text);
	free(written(&head, &options));
}

/* Fields times what Connection names would be a long time on an event loop: the parser lets so many through, no more. */
Test(forward, options_are_bounded)
{
	static char text[40000];
	struct head head;
	enum reason why;

	for (int options = HEAD_OPTIONS_MAX; options <= HEAD_OPTIONS_MAX + 1; options++) {
		int n = snprintf(text, sizeof(text), "GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: x");

		for (int i = 1; i < options; i++)
			n += snprintf(text + n, sizeof(text) - (size_t)n, ",f%d", i);
		n += snprintf(text + n, sizeof(text) - (size_t)n, "\r\n");
		for (int i = 1; i <= 900; i++)
			n += snprintf(text + n, sizeof(text) - (size_t)n, "f%d: y\r\n", i);
		n += snprintf(text + n, sizeof(text) - (size_t)n, "\r\n");
		cr_expect_eq(parse_n(text, (size_t)n, &head, &why), options == HEAD_OPTIONS_MAX);
		cr_expect_eq(why, options == HEAD_OPTIONS_MAX ? REASON_OK : REASON_TOO_MANY_FIELDS);
		if (why == REASON_OK) {
			struct forward_options own = options_of(&head);
			char *sent = written(&head, &own);

			cr_expect(!strstr(sent, "\r\nf63:") && strstr(sent, "\r\nf64:") && strstr(sent, "\r\nf900:"));
			free(sent);
		}
	}
}

/* --- responses --------------------------------------------------------------------------------------------------- */

#define RESPONSE(fields) "HTTP/1.1 200 OK\r\n" fields "\r\n"

static const struct {
	const char *from;
	enum head_method method;
	const char *to;
} RESPONSES[] = {
	{ RESPONSE(""), HEAD_GET, VIA },
	{ RESPONSE("Content-Length: 5\r\nContent-Type: t\r\n"), HEAD_GET, "Content-Type: t\r\n" VIA },
	{ RESPONSE("Transfer-Encoding: chunked\r\nTrailer: X\r\n"), HEAD_GET, "Trailer: X\r\n" VIA },
	{ RESPONSE("B: 1\r\nSet-Cookie: a\r\nset-cookie:b \r\nE:\r\n"), HEAD_GET,
	  "B: 1\r\nSet-Cookie: a\r\nset-cookie:b\r\nE:\r\n" VIA },
	{ "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n", HEAD_GET, "Server: x\r\nVia: 1.0 adit\r\n" },
	{ RESPONSE("Via: 1.1 b\r\nvia: 1.0 c, 1.1 d\r\n"), HEAD_GET, "Via: 1.1 b\r\nvia: 1.0 c, 1.1 d\r\n" VIA },
	{ RESPONSE("Connection: close, X-One\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authenticate: Basic\r\n"
		   "Proxy-Authorization: x\r\nProxy-Authentication-Info: x\r\nTE: x\r\nUpgrade: h2c\r\nX-One: y\r\nX: z\r\n"),
	  HEAD_GET, "X: z\r\n" VIA },
	{ RESPONSE("Connection: Set-Cookie, Content-Type, Location, Cache-Control, Via, Content-Length, Date,Vary\r\n"
		   "Set-Cookie: s\r\nContent-Type: t\r\nLocation: l\r\nCache-Control: c\r\nDate: d\r\nVary: v\r\n"),
	  HEAD_GET, "Set-Cookie: s\r\nContent-Type: t\r\nLocation: l\r\nCache-Control: c\r\nDate: d\r\nVary: v\r\n" VIA },

	/* the length of another message than this one */
	{ RESPONSE("content-length: 5\r\nContent-Length: 5\r\n"), HEAD_HEAD, "content-length: 5\r\n" VIA },
	{ RESPONSE("Connection: Content-Length\r\nContent-Length: 5\r\n"), HEAD_HEAD, "Content-Length: 5\r\n" VIA },
	{ RESPONSE("Transfer-Encoding: chunked\r\n"), HEAD_HEAD, VIA },
	{ "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: e\r\n\r\n", HEAD_GET,
	  "Content-Length: 5\r\nETag: e\r\n" VIA },
	{ "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", HEAD_GET, VIA },
	{ "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", HEAD_HEAD, VIA },

	/* interim */
	{ "HTTP/1.1 100 Continue\r\n\r\n", HEAD_POST, VIA },
	{ "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n", HEAD_HEAD, "Link: </a>\r\n" VIA },
	{ "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nupgrade: WebSocket, h2c\r\nSec-WebSocket-Accept: x\r\n\r\n",
	  HEAD_GET, "Sec-WebSocket-Accept: x\r\n" VIA "Upgrade: websocket\r\n" },
};

Test(forward, responses)
{
	for (size_t i = 0; i < COUNT(RESPONSES); i++) {
		const char *from = RESPONSES[i].from;
		struct response_parser p;
		struct response_head head;
		enum reason why;
		size_t room, n;
		char *text, *exact;

		response_parser_init(&p, RESPONSES[i].method);
		cr_assert_eq(response_parse(&p, from, strlen(from), &LIMITS, &head, &why), HEAD_DONE, "%s", from);
		room = head.fields.n + FORWARD_FIELDS_ROOM;
		text = malloc(room + 1);
		n = forward_response_fields(&head, text, room);
		text[n] = '\0';
		cr_expect_str_eq(text, RESPONSES[i].to, "from %s", from);
		exact = malloc(n);
		cr_expect_eq(forward_response_fields(&head, exact, n), n);
		for (size_t less = 0; less < n; less++)
			cr_expect_eq(forward_response_fields(&head, exact, less), 0u);
		free(exact);
		free(text);
	}
}

Test(forward, trailers)
{
	static const struct {
		const char *from, *to;
	} rows[] = {
		{ "", "" },
		{ "X: y\r\n", "X: y\r\n" },
		{ "grpc-status: 0\r\nServer-Timing:a \t\r\nETag: \"x\"\r\nEmpty: \r\nContent-Digest: z\r\n",
		  "grpc-status: 0\r\nServer-Timing:a\r\nETag: \"x\"\r\nEmpty:\r\nContent-Digest: z\r\n" },
		/* framing, routing, authentication, control */
		{ "Content-Length: 5\r\n", "" },
		{ "transfer-encoding: chunked\r\nX: y\r\n", "X: y\r\n" },
		{ "X: y\r\nHost: a\r\nConnection: close, X\r\nTrailer: X\r\nTE: x\r\nUpgrade: x\r\nKeep-Alive: 5\r\n"
		  "Proxy-Connection: x\r\nVia: 1.1 x\r\nMax-Forwards: 0\r\nExpect: 100-continue\r\nForwarded: for=x\r\n",
		  "X: y\r\n" },
		{ "Authorization: Basic x\r\nProxy-Authorization: Basic x\r\nWWW-Authenticate: Basic\r\nCookie: c\r\n"
		  "Proxy-Authenticate: Basic\r\nSet-Cookie: c\r\nProxy-Authentication-Info: x\r\nProxy-Status: x\r\n",
		  "" },
		{ "Cache-Control: no-store\r\nPragma: x\r\nRange: x\r\nIf-Match: x\r\nIf-None-Match: x\r\nIf-Range: x\r\n"
		  "If-Modified-Since: x\r\nIf-Unmodified-Since: x\r\nAge: 1\r\nExpires: x\r\nDate: x\r\nLocation: x\r\n"
		  "Retry-After: 1\r\nVary: *\r\nWarning: x\r\n",
		  "" },
		{ "Content-Type: t\r\nContent-Encoding: gzip\r\nContent-Range: x\r\nContent-Disposition: x\r\n", "" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct slice from = slice_of(rows[i].from);
		char *out = malloc(from.n + 1);
		size_t n = forward_trailers(from, out, from.n);

		out[n] = '\0';
		cr_expect_str_eq(out, rows[i].to, "from %s", rows[i].from);
		for (size_t less = 0; less < n; less++)
			cr_expect_eq(forward_trailers(from, out, less), 0u);
		free(out);
	}
	cr_expect_eq(forward_trailers((struct slice){ 0 }, NULL, 0), 0u);
}
