/* Heads from HTTP/2 to HTTP/1.1 and back. */
#include "http/h2_head.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_lines(struct h2_head *h, const char *lines, size_t most)
{
	while (*lines) {
		const char *value = strstr(lines, ": "), *end = strchr(lines, '\n');

		h2_head_add(h, (struct slice){ lines, (size_t)(value - lines) },
		    (struct slice){ value + 2, (size_t)(end - value) - 2 }, most);
		lines = end + 1;
	}
}

Test(h2_head, requests_as_text)
{
	static const struct {
		const char *lines;
		bool body;
		const char *text;
	} rows[] = {
		{ ":method: CONNECT\n:authority: a.example:443\nproxy-authorization: Basic x\n", true,
		  "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\nproxy-authorization: Basic x\r\n\r\n" },
		{ ":method: GET\n:scheme: http\n:authority: a.example\n:path: /x?y\na: b\n", false,
		  "GET http://a.example/x?y HTTP/1.1\r\nhost: a.example\r\na: b\r\n\r\n" },
		{ ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\n", true,
		  "POST http://a.example/ HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n" },
		{ ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\ncontent-length: 5\n", true,
		  "POST http://a.example/ HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\n" },
		{ ":method: GET\n:scheme: https\n:authority: p.example:8443\n:path: /healthz\n", false,
		  "GET /healthz HTTP/1.1\r\nhost: p.example:8443\r\n\r\n" },
		{ ":method: GET\n:scheme: HTTPS\n:authority: p.example\n:path: /\n", false,
		  "GET / HTTP/1.1\r\nhost: p.example\r\n\r\n" },
		{ ":method: OPTIONS\n:scheme: http\n:authority: a.example\n:path: *\n", false,
		  "OPTIONS http://a.example HTTP/1.1\r\nhost: a.example\r\n\r\n" },
		{ ":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nhost: b.example\nx: \n", false,
		  "GET http://a.example/ HTTP/1.1\r\nhost: a.example\r\nx: \r\n\r\n" },
		{ ":method: GET\n:scheme: http\n:authority: a.example\n:path: /\ncookie: a=b\nx: y\ncookie: c=d\ncookie: e\n", false,
		  "GET http://a.example/ HTTP/1.1\r\nhost: a.example\r\nx: y\r\ncookie: a=b; c=d; e\r\n\r\n" },
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct h2_head h = { 0 };
		struct h2_text text = { 0 };

		add_lines(&h, rows[i].lines, 10000);
		cr_assert_not(h.too_large || h.no_memory);
		cr_assert(h2_head_request(&h, rows[i].body, &text));
		cr_assert_eq(text.n, strlen(rows[i].text), "row %u: %.*s", i, (int)text.n, text.p);
		cr_assert_eq(memcmp(text.p, rows[i].text, text.n), 0, "row %u: %.*s", i, (int)text.n, text.p);
		h2_head_wipe(&h);
		h2_text_wipe(&text);
		cr_assert_null(text.p);
	}
}

/* RFC 9113 6.5.2: names, values and 32 for each. */
Test(h2_head, sizes_are_counted)
{
	for (size_t most = 68; most < 76; most++) {
		struct h2_head h = { 0 };

		add_lines(&h, "ab: cdef\n", most); /* 38 */
		cr_assert_not(h.too_large);
		add_lines(&h, "x: y\n", most); /* 34 */
		cr_assert_eq(h.too_large, most < 72, "%zu", most);
		cr_assert_eq(h.fields.n, most < 72 ? 10u : 16u, "what is too much is not kept");
		h2_head_wipe(&h);
	}
}

Test(h2_head, any_allocation_fails)
{
	char lines[4000] = ":method: GET\n:scheme: http\n:authority: a.example\n:path: /\ncookie: a\ncookie: b\n";
	bool hit = true;

	for (unsigned i = 0; i < 60; i++)
		(void)snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "x-%u: %050u\n", i, i);
	for (unsigned long nth = 1; hit; nth++) {
		struct h2_head h = { 0 };
		struct h2_text text = { 0 };
		bool good;

		mem_fault_set(nth, false);
		add_lines(&h, lines, 100000);
		good = !h.no_memory && h2_head_request(&h, false, &text);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(good, !hit, "%lu", nth);
		h2_head_wipe(&h);
		h2_text_wipe(&text);
	}
}

static bool has(const struct h2_fields *f, size_t i, const char *name, const char *value)
{
	return f->nv[i].namelen == strlen(name) && memcmp(f->nv[i].name, name, f->nv[i].namelen) == 0 &&
	       f->nv[i].valuelen == strlen(value) && memcmp(f->nv[i].value, value, f->nv[i].valuelen) == 0;
}

Test(h2_head, fields_for_nghttp2)
{
	char text[] = "Content-Type: Text/Plain\r\nConnection: close, x\r\nKEEP-ALIVE: 5\r\nProxy-Connection: y\r\n"
		      "Transfer-Encoding: chunked\r\nUpgrade: z\r\nX-Empty: \r\n";
	struct h2_fields f;

	cr_assert(h2_fields_make(&f, 200, text, strlen(text)));
	cr_assert(h2_fields_add(&f, "content-length", "5"));
	cr_assert_eq(f.n, 4u);
	cr_assert(has(&f, 0, ":status", "200"));
	cr_assert(has(&f, 1, "content-type", "Text/Plain"));
	cr_assert(has(&f, 2, "x-empty", ""));
	cr_assert(has(&f, 3, "content-length", "5"));
	h2_fields_free(&f);
	cr_assert(h2_fields_make(&f, 0, text, strlen(text)), "trailers");
	cr_assert_eq(f.n, 2u);
	h2_fields_free(&f);
	cr_assert(h2_fields_make(&f, 204, NULL, 0));
	cr_assert_eq(f.n, 1u);
	h2_fields_free(&f);
}

Test(h2_head, many_fields_without_memory)
{
	char text[10000] = "";
	struct h2_fields f;
	bool hit = true;

	for (unsigned i = 0; i < 200; i++)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "X-%u: %u\r\n", i, i);
	for (unsigned long nth = 1; hit; nth++) {
		bool good;

		mem_fault_set(nth, false);
		good = h2_fields_make(&f, 200, text, strlen(text));
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(good, !hit);
		cr_assert(!good || f.n == 201);
		h2_fields_free(&f);
	}
}
