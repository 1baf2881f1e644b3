/* The head parser: what is taken and what is refused, and that neither depends on how the bytes were cut. Every input is
 * read from the end of a page that is followed by one which must not be touched. */
#include "adit/http/head.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define TEXT(literal) literal, sizeof(literal) - 1
#define HOST "Host: example.org:443\r\n"
#define CONNECT "CONNECT example.org:443 HTTP/1.1\r\n"

static const struct head_limits LIMITS = { .request_line_bytes = 100, .head_bytes = 400, .fields = 6 };

/* --- how a head is fed ----------------------------------------------------------------------------------------- */

/* A copy that ends where a PROT_NONE page begins. */
static char *guarded(const char *text, size_t len)
{
	static char *pages;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (!pages) {
		pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		cr_assert_neq(pages, MAP_FAILED);
		cr_assert_eq(mprotect(pages + page, page, PROT_NONE), 0);
	}
	cr_assert_leq(len, page);
	if (len > 0)
		memcpy(pages + page - len, text, len);
	return pages + page - len;
}

struct outcome {
	enum head_status status;
	enum reason why;
	struct head head;
	char text[4000]; /* all that can be said about the head, for comparing */
};

static int describe_span(char *to, size_t size, const char *name, struct slice s, const char *buf)
{
	return snprintf(to, size, "%s=%s%zd+%zu ", name, s.p ? "" : "null", s.p ? s.p - buf : 0, s.n);
}

static void describe(struct outcome *o, const char *buf)
{
	const struct head *h = &o->head;
	char *to = o->text, *end = o->text + sizeof(o->text);

	to += snprintf(to, (size_t)(end - to), "status %d why %s ", (int)o->status, reason_name(o->why));
	if (o->status == HEAD_PARTIAL)
		return;
	to += describe_span(to, (size_t)(end - to), "method", h->method_text, buf);
	to += describe_span(to, (size_t)(end - to), "target", h->target, buf);
	to += describe_span(to, (size_t)(end - to), "path", h->path, buf);
	to += describe_span(to, (size_t)(end - to), "host", h->host, buf);
	to += describe_span(to, (size_t)(end - to), "auth", h->proxy_authorization, buf);
	to += describe_span(to, (size_t)(end - to), "fields", h->fields, buf);
	snprintf(to, (size_t)(end - to), "%d %d %u %d %s %u %d %d %d %d %llu %d %d %zu %zu", (int)h->method, (int)h->form,
		 h->minor_version, h->has_authority, h->authority.host.text, h->authority.port, h->has_host,
		 h->has_proxy_authorization, h->keep_alive, h->has_content_length, h->content_length, h->chunked,
		 h->expect_continue, h->field_count, h->head_bytes);
}

static void feed(struct head_parser *p, const char *text, size_t len, const struct head_limits *limits,
		 struct outcome *o)
{
	char *buf = guarded(text, len); /* each call sees the bytes at another place */

	memset(&o->head, 0xee, sizeof(o->head));
	o->status = head_parse(p, buf, len, limits, &o->head, &o->why);
	describe(o, buf);
	if (o->status != HEAD_PARTIAL) {
		struct outcome again;

		again.status = head_parse(p, buf, len, limits, &again.head, &again.why);
		describe(&again, buf);
		cr_assert_str_eq(again.text, o->text, "the answer stays");
	}
}

static void parse_whole(const char *text, size_t len, const struct head_limits *limits, struct outcome *o)
{
	struct head_parser p;

	head_init(&p);
	feed(&p, text, len, limits, o);
}

static void expect_same(const struct outcome *whole, const struct outcome *other, const char *text, size_t len, size_t cut)
{
	cr_assert_str_eq(other->text, whole->text, "cut at %zu of %zu: %.*s", cut, len, (int)len, text);
}

/* In two parts for every cut, byte by byte, and each prefix by itself: more bytes never change an answer. */
static void parse_cut(const char *text, size_t len, const struct head_limits *limits, const struct outcome *whole)
{
	struct head_parser bytes;
	struct outcome o = { .status = HEAD_PARTIAL, .why = REASON_OK };

	head_init(&bytes);
	for (size_t cut = 0; cut <= len; cut++) {
		struct head_parser two;
		bool answered;

		head_init(&two);
		feed(&two, text, cut, limits, &o);
		answered = o.status != HEAD_PARTIAL;
		if (answered)
			expect_same(whole, &o, text, len, cut);
		feed(&two, text, len, limits, &o);
		expect_same(whole, &o, text, len, cut);

		feed(&bytes, text, cut, limits, &o);
		cr_assert_eq(o.status != HEAD_PARTIAL, answered, "byte by byte at %zu: %.*s", cut, (int)len, text);
		if (answered)
			expect_same(whole, &o, text, len, cut);
	}
	expect_same(whole, &o, text, len, len);
}

static void parse(const char *text, size_t len, const struct head_limits *limits, struct outcome *o)
{
	parse_whole(text, len, limits, o);
	parse_cut(text, len, limits, o);
}

/* --- what is refused --------------------------------------------------------------------------------------------- */

static const struct bad {
	const char *text;
	size_t len;
	enum reason why;
} BAD[] = {
	/* request line */
	{ TEXT("\r\n\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("\r\n\r\n" CONNECT HOST "\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("\n" CONNECT HOST "\r\n"), REASON_BARE_LF },
	{ TEXT("\r" CONNECT HOST "\r\n"), REASON_BARE_CR },
	{ TEXT("\r\r\n"), REASON_BARE_CR },
	{ TEXT("GET\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET /\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT(" GET / HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET  / HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET /  HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1.1 \r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / x HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET\t/ HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET /\tHTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET /\tx HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET  HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("G(T / HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("G\xc3\xa9T / HTTP/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1.\xb9\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / http/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1.\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1.10\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/01.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/1,1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/a.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTPS/1.1\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/2\r\n"), REASON_BAD_REQUEST_LINE },
	{ TEXT("GET / HTTP/2.0\r\n"), REASON_VERSION_UNSUPPORTED },
	{ TEXT("GET / HTTP/0.9\r\n"), REASON_VERSION_UNSUPPORTED },
	{ TEXT("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), REASON_VERSION_UNSUPPORTED },
	{ TEXT("CONNECT nonsense HTTP/3.0\r\n"), REASON_VERSION_UNSUPPORTED },
	{ TEXT("\x16\x03\x01\x02\x00\x01"), REASON_FORBIDDEN_BYTE },
	{ TEXT("GET / HTTP/1.1\n"), REASON_BARE_LF },
	{ TEXT("GET / HTTP/1.1\rX"), REASON_BARE_CR },
	{ TEXT("GET /\0 HTTP/1.1\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT("GET /\x7f HTTP/1.1\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT("GET /\x1b HTTP/1.1\r\n"), REASON_FORBIDDEN_BYTE },

	/* target */
	{ TEXT("CONNECT example.org HTTP/1.1\r\n"), REASON_BAD_AUTHORITY },
	{ TEXT("CONNECT / HTTP/1.1\r\n"), REASON_BAD_AUTHORITY },
	{ TEXT("CONNECT * HTTP/1.1\r\n"), REASON_BAD_AUTHORITY },
	{ TEXT("CONNECT http://example.org:80/ HTTP/1.1\r\n"), REASON_BAD_AUTHORITY },
	{ TEXT("CONNECT user@example.org:443 HTTP/1.1\r\n"), REASON_BAD_AUTHORITY },
	{ TEXT("CONNECT 127.1:443 HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("CONNECT :443 HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("CONNECT b\xc3\xbc" "cher.example:443 HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("CONNECT example.org:0443 HTTP/1.1\r\n"), REASON_BAD_PORT },
	{ TEXT("CONNECT example.org: HTTP/1.1\r\n"), REASON_BAD_PORT },
	{ TEXT("GET example.org:443 HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET * HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("OPTIONS ** HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET /#top HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET /\xc3\xa9 HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET path HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET ?q HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET https://example.org/ HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET ftp://example.org/ HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http:/example.org/ HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http:// HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http:///x HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http://user@example.org/ HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http://u:secret@example.org/ HTTP/1.1\r\n"), REASON_BAD_TARGET },
	{ TEXT("GET http://:80/ HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("GET http://1.2.3/ HTTP/1.1\r\n"), REASON_BAD_HOST },
	{ TEXT("GET http://example.org:0/ HTTP/1.1\r\n"), REASON_BAD_PORT },
	{ TEXT("GET http://example.org:/ HTTP/1.1\r\n"), REASON_BAD_PORT },

	/* fields */
	{ TEXT(CONNECT "Host: a\n\r\n"), REASON_BARE_LF },
	{ TEXT(CONNECT "\n"), REASON_BARE_LF },
	{ TEXT(CONNECT HOST "\r\r\n"), REASON_BARE_CR },
	{ TEXT(CONNECT "Host: a\rb\r\n\r\n"), REASON_BARE_CR },
	{ TEXT(CONNECT "Host: a\0b\r\n\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT(CONNECT "Ho\0st: ab\r\n\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT(CONNECT HOST "X: a\x01\r\n\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT(CONNECT HOST "X: a\x0b\r\n\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT(CONNECT HOST "X: a\x7f\r\n\r\n"), REASON_FORBIDDEN_BYTE },
	{ TEXT(CONNECT " Host: a\r\n\r\n"), REASON_OBS_FOLD },
	{ TEXT(CONNECT HOST "X: a\r\n b\r\n\r\n"), REASON_OBS_FOLD },
	{ TEXT(CONNECT HOST "X: a\r\n\tb\r\n\r\n"), REASON_OBS_FOLD },
	{ TEXT(CONNECT HOST " \r\n"), REASON_OBS_FOLD },
	{ TEXT(CONNECT "Host : a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "Host\t: a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT ": a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "Host\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "Ho st: a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "X(y): a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "H\xc3\xb6st: a\r\n\r\n"), REASON_BAD_FIELD_NAME },
	{ TEXT(CONNECT "\"Host\": a\r\n\r\n"), REASON_BAD_FIELD_NAME },

	/* host */
	{ TEXT(CONNECT "\r\n"), REASON_HOST_MISSING },
	{ TEXT("GET / HTTP/1.1\r\n\r\n"), REASON_HOST_MISSING },
	{ TEXT("GET http://example.org/ HTTP/1.1\r\n\r\n"), REASON_HOST_MISSING },
	{ TEXT("GET / HTTP/1.9\r\n\r\n"), REASON_HOST_MISSING },
	{ TEXT(CONNECT HOST HOST "\r\n"), REASON_HOST_DUPLICATE },
	{ TEXT(CONNECT HOST "hOST: other\r\n\r\n"), REASON_HOST_DUPLICATE },
	{ TEXT(CONNECT "Host:\r\nHost:\r\n\r\n"), REASON_HOST_DUPLICATE },
	{ TEXT("CONNECT a:1 HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), REASON_HOST_DUPLICATE },
	{ TEXT(CONNECT "Host:\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: \t \r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT("CONNECT a:1 HTTP/1.0\r\nHost:\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: a b\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: a, b\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: a:\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: a:b\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: u@a\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: http://a\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: 127.1\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: ::1\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT(CONNECT "Host: h\xc3\xb6st\r\n\r\n"), REASON_HOST_INVALID },
	{ TEXT("GET / HTTP/1.1\r\nHost: /\r\n\r\n"), REASON_HOST_INVALID },

	/* body */
	{ TEXT(CONNECT HOST "Content-Length: 1\r\n\r\n"), REASON_CONNECT_WITH_BODY },
	{ TEXT(CONNECT HOST "Content-Length: 18446744073709551615\r\n\r\n"), REASON_CONNECT_WITH_BODY },
	{ TEXT(CONNECT HOST "Content-Length: 18446744073709551616\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length:\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length: -1\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length: +0\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length: 0x0\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length: 0, 0\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Content-Length: 0\r\nContent-Length: 1\r\n\r\n"), REASON_BAD_CONTENT_LENGTH },
	{ TEXT(CONNECT HOST "Transfer-Encoding: chunked\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT(CONNECT HOST "transfer-encoding:\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT(CONNECT HOST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT("CONNECT a:1 HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"), REASON_TRANSFER_ENCODING },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
	  REASON_TRANSFER_ENCODING },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
	  REASON_TRANSFER_ENCODING },
	{ TEXT("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), REASON_TRANSFER_ENCODING },

	{ TEXT(CONNECT HOST "Proxy-Authorization: Basic YQ==\r\nproxy-authorization: Basic YQ==\r\n\r\n"),
	  REASON_AUTH_MALFORMED },
};

Test(head, refused)
{
	for (size_t i = 0; i < COUNT(BAD); i++) {
		struct outcome o;

		parse(BAD[i].text, BAD[i].len, &LIMITS, &o);
		cr_expect_eq(o.status, HEAD_BAD, "%s", BAD[i].text);
		cr_expect_eq(o.why, BAD[i].why, "%s: %s, not %s", BAD[i].text, reason_name(o.why), reason_name(BAD[i].why));
		cr_expect_eq(o.head.head_bytes, 0);
		cr_expect_not(o.head.has_authority);
	}
}

Test(head, refused_with_a_request_line_on_record)
{
	struct outcome o;

	parse_whole(TEXT(CONNECT "\r\n"), &LIMITS, &o);
	cr_expect(slice_eq(o.head.method_text, slice_of("CONNECT")));
	cr_expect(slice_eq(o.head.target, slice_of("example.org:443")));
	parse_whole(TEXT("GET /x HTTP/2.0\r\n"), &LIMITS, &o);
	cr_expect(slice_eq(o.head.target, slice_of("/x")));
	parse_whole(TEXT("GET /\n"), &LIMITS, &o);
	cr_expect_eq(o.head.target.n, 0);
}

/* --- what is taken ----------------------------------------------------------------------------------------------- */

static const struct good {
	const char *text;
	size_t len;
	enum head_method method;
	enum head_form form;
	unsigned minor;
	const char *target, *path;
	const char *authority; /* NULL: none */
	uint16_t port;
	const char *host, *credentials; /* NULL: no such field */
	bool keep_alive;
	int content_length; /* -1: none */
	bool chunked, expect_continue;
	size_t fields, rest; /* bytes behind the head */
} GOOD[] = {
	{ TEXT(CONNECT HOST "\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "", "example.org", 443,
	  "example.org:443", NULL, true, -1, false, false, 1, 0 },
	{ TEXT("\r\n" CONNECT HOST "\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "", "example.org", 443,
	  "example.org:443", NULL, true, -1, false, false, 1, 0 },
	{ TEXT(CONNECT HOST "\r\n\x16\x03\x01\0early"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "",
	  "example.org", 443, "example.org:443", NULL, true, -1, false, false, 1, 9 },
	{ TEXT(CONNECT HOST "Proxy-Authorization: Basic YTpi\r\nUser-Agent: curl\r\nProxy-Connection: Keep-Alive\r\n\r\n"),
	  HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "", "example.org", 443, "example.org:443", "Basic YTpi",
	  true, -1, false, false, 4, 0 },
	{ TEXT(CONNECT "hOsT:other.example\r\nPROXY-AUTHORIZATION: \t Basic  YTpi \t\r\n\r\n"), HEAD_CONNECT,
	  HEAD_FORM_AUTHORITY, 1, "example.org:443", "", "example.org", 443, "other.example", "Basic  YTpi", true, -1, false,
	  false, 2, 0 },
	{ TEXT(CONNECT HOST "Proxy-Authorization:\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "",
	  "example.org", 443, "example.org:443", "", true, -1, false, false, 2, 0 },
	{ TEXT("CONNECT [2001:DB8::1]:443 HTTP/1.1\r\nHost: [2001:DB8::1]\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1,
	  "[2001:DB8::1]:443", "", "2001:db8::1", 443, "[2001:DB8::1]", NULL, true, -1, false, false, 1, 0 },
	{ TEXT("CONNECT EXAMPLE.org.:22 HTTP/1.0\r\n\r\nSSH-2.0"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 0, "EXAMPLE.org.:22",
	  "", "example.org", 22, NULL, NULL, false, -1, false, false, 0, 7 },
	{ TEXT("CONNECT a:1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 0, "a:1", "",
	  "a", 1, NULL, NULL, false, -1, false, false, 1, 0 },
	{ TEXT("CONNECT a:1 HTTP/1.7\r\nHost: a\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "a:1", "", "a", 1, "a", NULL,
	  true, -1, false, false, 1, 0 },
	{ TEXT(CONNECT HOST "Content-Length: 0\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1, "example.org:443", "",
	  "example.org", 443, "example.org:443", NULL, true, 0, false, false, 2, 0 },
	{ TEXT(CONNECT HOST "Content-Length: 0\r\nCONTENT-LENGTH: 00\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1,
	  "example.org:443", "", "example.org", 443, "example.org:443", NULL, true, 0, false, false, 3, 0 },
	{ TEXT(CONNECT HOST "X:\r\nY: \t\r\nZ: a\tb \xc3\xa9\xff :x\r\n\r\n"), HEAD_CONNECT, HEAD_FORM_AUTHORITY, 1,
	  "example.org:443", "", "example.org", 443, "example.org:443", NULL, true, -1, false, false, 4, 0 },

	{ TEXT("GET / HTTP/1.1\r\nHost:\r\n\r\n"), HEAD_GET, HEAD_FORM_ORIGIN, 1, "/", "/", NULL, 0, "", NULL, true, -1, false,
	  false, 1, 0 },
	{ TEXT("GET /healthz?a|b HTTP/1.0\r\n\r\n"), HEAD_GET, HEAD_FORM_ORIGIN, 0, "/healthz?a|b", "/healthz?a|b", NULL, 0,
	  NULL, NULL, false, -1, false, false, 0, 0 },
	{ TEXT("GET //x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, Close\r\n\r\n"), HEAD_GET, HEAD_FORM_ORIGIN, 1, "//x",
	  "//x", NULL, 0, "a", NULL, false, -1, false, false, 2, 0 },
	{ TEXT("GET / HTTP/1.1\r\nHost: a\r\nConnection: closed,,\r\nConnection: x ,\tclose\r\n\r\n"), HEAD_GET,
	  HEAD_FORM_ORIGIN, 1, "/", "/", NULL, 0, "a", NULL, false, -1, false, false, 3, 0 },
	{ TEXT("GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n"), HEAD_GET, HEAD_FORM_ORIGIN, 1, "/", "/", NULL, 0,
	  "a", NULL, true, -1, false, false, 2, 0 },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-Continue\r\n\r\nhello"), HEAD_POST,
	  HEAD_FORM_ORIGIN, 1, "/", "/", NULL, 0, "a", NULL, true, 12, false, true, 3, 5 },
	{ TEXT("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"), HEAD_POST, HEAD_FORM_ORIGIN, 1, "/", "/",
	  NULL, 0, "a", NULL, true, -1, true, false, 2, 0 },
	{ TEXT("GET http://example.org HTTP/1.1\r\nHost: example.org\r\n\r\n"), HEAD_GET, HEAD_FORM_ABSOLUTE, 1,
	  "http://example.org", "", "example.org", 80, "example.org", NULL, true, -1, false, false, 1, 0 },
	{ TEXT("HEAD HTTP://Example.ORG:8080?q=/ HTTP/1.1\r\nHost: x\r\n\r\n"), HEAD_HEAD, HEAD_FORM_ABSOLUTE, 1,
	  "HTTP://Example.ORG:8080?q=/", "?q=/", "example.org", 8080, "x", NULL, true, -1, false, false, 1, 0 },
	{ TEXT("PUT http://[::1]/a@b HTTP/1.1\r\nHost:\r\n\r\n"), HEAD_PUT, HEAD_FORM_ABSOLUTE, 1, "http://[::1]/a@b", "/a@b",
	  "::1", 80, "", NULL, true, -1, false, false, 1, 0 },
	{ TEXT("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), HEAD_OPTIONS, HEAD_FORM_ASTERISK, 1, "*", "", NULL, 0, "a", NULL, true,
	  -1, false, false, 1, 0 },
	{ TEXT("TRACE / HTTP/1.0\r\n\r\n"), HEAD_TRACE, HEAD_FORM_ORIGIN, 0, "/", "/", NULL, 0, NULL, NULL, false, -1, false,
	  false, 0, 0 },
	{ TEXT("DELETE / HTTP/1.0\r\n\r\n"), HEAD_DELETE, HEAD_FORM_ORIGIN, 0, "/", "/", NULL, 0, NULL, NULL, false, -1, false,
	  false, 0, 0 },
	{ TEXT("PATCH / HTTP/1.0\r\n\r\n"), HEAD_PATCH, HEAD_FORM_ORIGIN, 0, "/", "/", NULL, 0, NULL, NULL, false, -1, false,
	  false, 0, 0 },
	{ TEXT("get / HTTP/1.0\r\n\r\n"), HEAD_OTHER, HEAD_FORM_ORIGIN, 0, "/", "/", NULL, 0, NULL, NULL, false, -1, false,
	  false, 0, 0 },
	{ TEXT("M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.0\r\n\r\n"), HEAD_OTHER, HEAD_FORM_ORIGIN, 0, "/", "/", NULL, 0, NULL, NULL,
	  false, -1, false, false, 0, 0 },
};

static void expect_slice(struct slice s, const char *text, const char *what, const char *head)
{
	cr_expect(slice_eq(s, slice_of(text ? text : "")), "%s is '" SLICE_FMT "' in %s", what, SLICE_ARG(s), head);
}

Test(head, taken)
{
	for (size_t i = 0; i < COUNT(GOOD); i++) {
		const struct good *g = &GOOD[i];
		struct outcome o;
		struct head *h = &o.head;

		parse(g->text, g->len, &LIMITS, &o);
		cr_assert_eq(o.status, HEAD_DONE, "%s: %s", g->text, reason_name(o.why));
		cr_expect_eq(o.why, REASON_OK);
		cr_expect_eq(h->method, g->method, "%s", g->text);
		cr_expect_eq(h->form, g->form, "%s", g->text);
		cr_expect_eq(h->minor_version, g->minor, "%s", g->text);
		expect_slice(h->target, g->target, "target", g->text);
		expect_slice(h->path, g->path, "path", g->text);
		cr_expect_eq(h->has_authority, g->authority != NULL, "%s", g->text);
		cr_expect_str_eq(h->authority.host.text, g->authority ? g->authority : "", "%s", g->text);
		cr_expect_eq(h->authority.port, g->port, "%s", g->text);
		cr_expect_eq(h->has_host, g->host != NULL, "%s", g->text);
		expect_slice(h->host, g->host, "host", g->text);
		cr_expect_eq(h->has_proxy_authorization, g->credentials != NULL, "%s", g->text);
		expect_slice(h->proxy_authorization, g->credentials, "credentials", g->text);
		cr_expect_eq(h->keep_alive, g->keep_alive, "%s", g->text);
		cr_expect_eq(h->has_content_length, g->content_length >= 0, "%s", g->text);
		cr_expect_eq(h->content_length, (unsigned long long)(g->content_length >= 0 ? g->content_length : 0), "%s",
			     g->text);
		cr_expect_eq(h->chunked, g->chunked, "%s", g->text);
		cr_expect_eq(h->expect_continue, g->expect_continue, "%s", g->text);
		cr_expect_eq(h->field_count, g->fields, "%s", g->text);
		cr_expect_eq(h->head_bytes, g->len - g->rest, "%s", g->text);
	}
}

/* Each proper prefix of a good head wants more. */
Test(head, partial)
{
	for (size_t i = 0; i < COUNT(GOOD); i++)
		for (size_t len = 0; len < GOOD[i].len - GOOD[i].rest; len++) {
			struct outcome o;

			parse_whole(GOOD[i].text, len, &LIMITS, &o);
			cr_assert_eq(o.status, HEAD_PARTIAL, "%.*s", (int)len, GOOD[i].text);
		}
}

Test(head, walk_over_fields)
{
	static const char text[] = CONNECT HOST "A:\r\nB-c: \t x: y \r\n\r\n";
	static const char *const expected[][2] = { { "Host", "example.org:443" }, { "A", "" }, { "B-c", "x: y" } };
	struct outcome o;
	struct head_field field;
	struct slice rest;
	size_t n = 0;

	parse_whole(TEXT(text), &LIMITS, &o);
	for (rest = o.head.fields; head_next_field(&rest, &field); n++) {
		cr_assert_lt(n, 3u);
		expect_slice(field.name, expected[n][0], "name", text);
		expect_slice(field.value, expected[n][1], "value", text);
	}
	cr_expect_eq(n, o.head.field_count);
	parse_whole(TEXT("GET / HTTP/1.0\r\n\r\n"), &LIMITS, &o);
	rest = o.head.fields;
	cr_expect_not(head_next_field(&rest, &field));
}

/* --- limits -------------------------------------------------------------------------------------------------------- */

/* Each limit at the last size that passes and the first that does not, whole and cut. */
Test(head, limits)
{
	static const char text[] = "GET /0123456789 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"; /* line 24, head 43, fields 2 */
	static const struct {
		struct head_limits limits;
		enum reason why;
	} rows[] = {
		{ { 24, 43, 2 }, REASON_OK },
		{ { 23, 43, 2 }, REASON_URI_TOO_LONG },
		{ { 0, 43, 2 }, REASON_URI_TOO_LONG },
		{ { 24, 42, 2 }, REASON_HEAD_TOO_LARGE },
		{ { 24, 26, 2 }, REASON_HEAD_TOO_LARGE },
		{ { 24, 10, 2 }, REASON_HEAD_TOO_LARGE },
		{ { 10, 10, 2 }, REASON_HEAD_TOO_LARGE },
		{ { 9, 10, 2 }, REASON_URI_TOO_LONG },
		{ { 24, 0, 2 }, REASON_HEAD_TOO_LARGE },
		{ { 24, 43, 1 }, REASON_TOO_MANY_FIELDS },
		{ { 24, 43, 0 }, REASON_TOO_MANY_FIELDS },
		{ { 1000, 1000, 1000 }, REASON_OK },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct outcome o;

		parse(TEXT(text), &rows[i].limits, &o);
		cr_expect_eq(o.why, rows[i].why, "row %zu: %s", i, reason_name(o.why));
		cr_expect_eq(o.status, rows[i].why == REASON_OK ? HEAD_DONE : HEAD_BAD);
	}
}

/* Lines without end are refused at the limit, not at the deadline; a buffer as large as the head limit suffices. */
Test(head, endless)
{
	char text[600];
	struct outcome o;

	memset(text, 'x', sizeof(text));
	parse_whole(text, LIMITS.request_line_bytes, &LIMITS, &o);
	cr_expect_eq(o.status, HEAD_PARTIAL);
	parse(text, LIMITS.request_line_bytes + 1, &LIMITS, &o);
	cr_expect_eq(o.why, REASON_URI_TOO_LONG);

	memcpy(text, TEXT(CONNECT HOST "X: "));
	parse_whole(text, LIMITS.head_bytes - 1, &LIMITS, &o);
	cr_expect_eq(o.status, HEAD_PARTIAL);
	parse(text, LIMITS.head_bytes, &LIMITS, &o);
	cr_expect_eq(o.why, REASON_HEAD_TOO_LARGE);
	parse(text, sizeof(text), &LIMITS, &o);
	cr_expect_eq(o.why, REASON_HEAD_TOO_LARGE);

	/* The leading CRLF counts for the head, not for the line. */
	struct head_limits exact = { 15, 19, 0 };
	parse(TEXT("\r\nTRACE / HTTP/1.0\r\n\r\n"), &exact, &o);
	cr_expect_eq(o.why, REASON_URI_TOO_LONG);
	exact.request_line_bytes = 16;
	parse(TEXT("\r\nTRACE / HTTP/1.0\r\n\r\n"), &exact, &o);
	cr_expect_eq(o.why, REASON_HEAD_TOO_LARGE);
	exact.head_bytes = 22;
	parse(TEXT("\r\nTRACE / HTTP/1.0\r\n\r\n"), &exact, &o);
	cr_expect_eq(o.status, HEAD_DONE);
}

/* Every byte at every place of a good head: never a crash, and the same answer however it is cut. */
Test(head, every_byte_everywhere)
{
	static const char text[] = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n";

	for (size_t at = 0; at < sizeof(text) - 1; at++)
		for (int c = 0; c < 256; c++) {
			char changed[sizeof(text)];
			struct head_parser p;
			struct outcome whole, o;

			memcpy(changed, text, sizeof(text));
			changed[at] = (char)c;
			parse_whole(changed, sizeof(text) - 1, &LIMITS, &whole);
			head_init(&p);
			feed(&p, changed, at, &LIMITS, &o);
			feed(&p, changed, at + 1, &LIMITS, &o);
			feed(&p, changed, sizeof(text) - 1, &LIMITS, &o);
			cr_assert_str_eq(o.text, whole.text);
			if (c == 0 || c == 0x7f || (c < 0x20 && c != '\t' && c != '\r' && c != '\n'))
				cr_assert(whole.why == REASON_FORBIDDEN_BYTE || whole.why == REASON_BARE_CR,
					  "byte %d at %zu: %s", c, at, reason_name(whole.why));
		}
}
