/* Inner TLS records: where the last complete one begins, however the stream is cut into writes. */
#include "tunnel/inner.h"

#include <criterion/criterion.h>
#include <string.h>

#define REC(type, n) type "\x03\x03\x00" n

static const struct row {
	const char *what, *bytes;
	size_t n, last;
} rows[] = {
	{ "nothing", "", 0, 0 },
	{ "one record", REC("\x16", "\x02") "ab", 7, 0 },
	{ "two records", REC("\x16", "\x02") "ab" REC("\x17", "\x01") "c", 13, 7 },
	{ "three records", REC("\x16", "\x01") "a" REC("\x14", "\x01") "b" REC("\x17", "\x01") "c", 18, 12 },
	{ "a beginning behind the last", REC("\x16", "\x01") "a" REC("\x17", "\x01") "b" REC("\x17", "\x09") "c", 18, 6 },
	{ "half a header behind the last", REC("\x16", "\x01") "a" REC("\x17", "\x01") "b" "\x17\x03", 14, 6 },
	{ "an empty record", REC("\x16", "\x01") "a" REC("\x17", "\x00"), 11, 6 },
	{ "only a beginning", REC("\x16", "\x09") "abc", 8, 0 },
	{ "no TLS", "SSH-2.0-x\r\nSSH-2.0-y\r\n", 22, 0 },
	{ "TLS, then something else", REC("\x16", "\x01") "a" REC("\x17", "\x01") "b" "HTTP/1.1", 20, 0 },
	{ "another version", "\x16\x02\x03\x00\x01" "a" REC("\x17", "\x01") "b", 12, 0 },
	{ "an impossible length", REC("\x16", "\x01") "a" "\x17\x03\x03\xff\xff" "b", 12, 0 },
};

Test(inner, table)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct inner in = { 0 };

		cr_assert_eq(inner_last(&in, rows[i].bytes, rows[i].n), rows[i].last, "%s", rows[i].what);
	}
}

/* Cut anywhere, the second part is judged by where records begin in it. */
Test(inner, every_split)
{
	static const char two[] = REC("\x16", "\x02") "ab" REC("\x17", "\x03") "cde" REC("\x17", "\x01") "f";
	const size_t n = sizeof(two) - 1, begins[] = { 0, 7, 15 }, ends[] = { 7, 15, 21 };

	for (size_t cut = 0; cut <= n; cut++) {
		struct inner in = { 0 };
		size_t want = 0, got;

		(void)inner_last(&in, two, cut);
		got = inner_last(&in, two + cut, n - cut);
		for (size_t i = 0; i < 3; i++)
			if (ends[i] > cut)
				want = begins[i] > cut ? begins[i] - cut : 0;
		cr_assert_eq(got, want, "cut at %zu", cut);
		cr_assert_not(in.over);
	}
}

Test(inner, byte_by_byte_ends_in_the_same_state)
{
	static const char bytes[] = REC("\x16", "\x02") "ab" REC("\x17", "\x04") "cd";
	struct inner whole = { 0 }, parts = { 0 };

	(void)inner_last(&whole, bytes, sizeof(bytes) - 1);
	for (size_t i = 0; i < sizeof(bytes) - 1; i++)
		cr_assert_eq(inner_last(&parts, bytes + i, 1), 0);
	cr_assert_eq(parts.body_left, whole.body_left);
	cr_assert_eq(parts.header_n, whole.header_n);
	cr_assert_eq(parts.body_left, 2);
}

Test(inner, once_no_tls_never_again)
{
	struct inner in = { 0 };

	cr_assert_eq(inner_last(&in, "x", 1), 0);
	cr_assert_eq(inner_last(&in, REC("\x16", "\x01") "a" REC("\x17", "\x01") "b", 12), 0);
	cr_assert(in.over);
}
