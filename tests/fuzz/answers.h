/* A strict reader of what the proxy answers: HTTP/1.1 final responses one after the other, framed by Content-Length. It
 * shares nothing with the code that writes them. */
#ifndef ADIT_TESTS_FUZZ_ANSWERS_H
#define ADIT_TESTS_FUZZ_ANSWERS_H

#include "adit/base/slice.h"
#include "fuzz/script.h"

#include <string.h>

struct answer {
	int status;
	struct slice details; /* of Proxy-Status; empty: none */
	bool close;
	bool has_length; /* all but a tunnel's 200 */
	size_t length; /* of the body */
	size_t n; /* bytes of the head */
};

static inline bool answer_token(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static inline void answer_field(struct answer *a, struct slice line)
{
	static const char *const known[] = { "Proxy-Authenticate", "Proxy-Status", "Allow", "Retry-After", "Content-Type",
					     "Content-Length", "Cache-Control", "Connection" };
	struct slice name = line, value;
	bool is_known = false;

	for (name.n = 0; name.n < line.n && answer_token(line.p[name.n]); name.n++)
		;
	must(name.n > 0 && name.n + 2 < line.n && line.p[name.n] == ':' && line.p[name.n + 1] == ' ', "a field line");
	value = (struct slice){ line.p + name.n + 2, line.n - name.n - 2 };
	for (size_t i = 0; i < value.n; i++)
		must((unsigned char)value.p[i] >= 0x20 && (unsigned char)value.p[i] < 0x7f, "a byte in a field");
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		is_known = is_known || slice_eq(name, slice_of(known[i]));
	must(is_known, "a field that nobody sends");
	if (slice_eq(name, slice_of("Content-Length"))) {
		must(!a->has_length && value.n <= 4, "Content-Length");
		a->has_length = true;
		for (size_t i = 0; i < value.n; i++) {
			must(value.p[i] >= '0' && value.p[i] <= '9', "Content-Length");
			a->length = a->length * 10 + (size_t)(value.p[i] - '0');
		}
	} else if (slice_eq(name, slice_of("Connection"))) {
		a->close = slice_eq(value, slice_of("close"));
		must(a->close || slice_eq(value, slice_of("keep-alive")), "Connection");
	} else if (slice_eq(name, slice_of("Proxy-Status"))) {
		const char *from = memmem(value.p, value.n, "details=\"", 9);

		must(from != NULL && value.p[value.n - 1] == '"', "Proxy-Status");
		a->details = (struct slice){ from + 9, (size_t)(value.p + value.n - from) - 10 };
	}
}

/* False: the head is not whole. Anything that no head can be is the end of the program. */
static inline bool answer_read(const char *p, size_t n, struct answer *a)
{
	const char *end = memmem(p, n, "\r\n\r\n", 4), *line;

	*a = (struct answer){ 0 };
	if (!end)
		return false;
	must(end - p >= 13 && memcmp(p, "HTTP/1.1 ", 9) == 0 && p[12] == ' ', "a status line");
	for (int i = 9; i < 12; i++) {
		must(p[i] >= '0' && p[i] <= '9', "a status");
		a->status = a->status * 10 + (p[i] - '0');
	}
	line = memmem(p, (size_t)(end + 2 - p), "\r\n", 2);
	while (line < end) {
		const char *from = line + 2;

		line = memmem(from, (size_t)(end + 2 - from), "\r\n", 2);
		answer_field(a, (struct slice){ from, (size_t)(line - from) });
	}
	a->n = (size_t)(end + 4 - p);
	return true;
}

#endif
