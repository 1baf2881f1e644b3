/* What is spoken after ALPN h2: every first difference, at every cut. */
#include "adit/http/h2.h"

#include <criterion/criterion.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static const char *word(enum h2_preface verdict)
{
	static const char *const words[] = {
		[H2_PREFACE_WAIT] = "wait", [H2_PREFACE_H2] = "h2", [H2_PREFACE_H1] = "h1", [H2_PREFACE_BAD] = "bad",
	};

	return words[verdict];
}

/* Byte by byte: it waits, then says one thing, and stays with it. */
static void expect(const char *bytes, size_t n, enum h2_preface want, size_t decided_at)
{
	for (size_t cut = 0; cut <= n; cut++) {
		enum h2_preface verdict = h2_preface_judge(bytes, cut);
		enum h2_preface due = cut < decided_at ? H2_PREFACE_WAIT : want;

		cr_assert_eq(verdict, due, "%zu of \"%.*s\": %s instead of %s", cut, (int)n, bytes, word(verdict), word(due));
	}
}

Test(preface, whole)
{
	static const char more[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

	expect(preface, sizeof(preface) - 1, H2_PREFACE_H2, H2_PREFACE_BYTES);
	expect(more, sizeof(more) - 1, H2_PREFACE_H2, H2_PREFACE_BYTES);
}

Test(preface, rows)
{
	static const struct row {
		const char *bytes;
		enum h2_preface want;
		size_t decided_at;
	} rows[] = {
		{ "", H2_PREFACE_WAIT, 1 },
		{ "P", H2_PREFACE_WAIT, 2 },
		{ "PRI", H2_PREFACE_WAIT, 4 },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", H2_PREFACE_WAIT, 24 },
		{ "CONNECT a.test:443 HTTP/1.1\r\n", H2_PREFACE_H1, 1 },
		{ "GET / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 1 },
		{ "get / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 1 },
		{ "PUT / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 2 },
		{ "POST / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 2 },
		{ "PROPFIND / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 3 },
		{ "PRIVATE / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 4 },
		{ "P / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 2 },
		{ "PR / HTTP/1.1\r\n\r\n", H2_PREFACE_H1, 3 },
		{ "PRI / HTTP/1.1\r\n\r\n", H2_PREFACE_BAD, 5 },
		{ "PRI * HTTP/1.1\r\n\r\n", H2_PREFACE_BAD, 12 },
		{ "PRI * HTTP/2.0\r\n\r\nSN", H2_PREFACE_BAD, 20 },
		{ "PRI\r\n", H2_PREFACE_BAD, 4 },
		{ " GET / HTTP/1.1\r\n", H2_PREFACE_BAD, 1 },
		{ "\r\nGET / HTTP/1.1\r\n", H2_PREFACE_BAD, 1 },
		{ "\x16\x03\x01", H2_PREFACE_BAD, 1 },
		{ "P\x80", H2_PREFACE_BAD, 2 },
	};

	for (size_t i = 0; i < COUNT(rows); i++)
		expect(rows[i].bytes, strlen(rows[i].bytes), rows[i].want, rows[i].decided_at);
}

/* Every byte in every place of the preface. */
Test(preface, every_difference)
{
	static const char token[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&'*+-.^_`|~";

	for (size_t at = 0; at < H2_PREFACE_BYTES; at++) {
		for (unsigned byte = 0; byte < 256; byte++) {
			bool method = byte != 0 && (strchr(token, (int)byte) || (at > 0 && byte == ' '));
			char bytes[H2_PREFACE_BYTES];

			memcpy(bytes, preface, sizeof(bytes));
			bytes[at] = (char)byte;
			if (bytes[at] != preface[at])
				expect(bytes, sizeof(bytes), at < 4 && method ? H2_PREFACE_H1 : H2_PREFACE_BAD, at + 1);
		}
	}
}
