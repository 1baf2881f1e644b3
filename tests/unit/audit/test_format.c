/* The line of a record: every field, every hostile text, every bound. */
#include "unit/audit/support.h"

static struct json_line json;

static void format(const struct audit_event *event, const char *node, char *line)
{
	size_t n = audit_format(event, node, line, AUDIT_LINE_MAX);

	cr_assert_gt(n, 0u);
	cr_assert(json_line_read(&json, line, n), "%s: %.*s", json.wrong, (int)n, line);
	line[n] = '\0';
}

static struct addr addr(const char *text)
{
	struct addr a;

	cr_assert(addr_parse(&a, slice_of(text)));
	return a;
}

Test(format, everything)
{
	struct addr client = addr("192.0.2.7:50123"), listener = addr("[2001:db8::1]:8443");
	struct addr address = addr("198.51.100.20:443"), local = addr("[::1]:40000");
	struct audit_event event = {
		.kind = AUDIT_CLOSE, .id = "01ARZ3NDEKTSV4RRFFQ69G5FAV", .connection = "01ARZ3NDEKTSV4RRFFQ69G5FAW",
		.user = "alice", .client = &client, .listener = &listener, .tls_version = "TLSv1.3",
		.tls_cipher = "TLS_AES_256_GCM_SHA384", .tls_sni = "proxy.example", .protocol = "http/1.1",
		.method = slice_of("CONNECT"), .target = slice_of("www.example.com:443"), .address = &address, .local = &local,
		.rule = "web", .status = 200, .reason = REASON_IDLE_TIMEOUT, .half_close = "clean", .bytes_up = 517,
		.bytes_down = 18446744073709551615u, .duration_ms = 31, .time_us = 1763719200123456
	};
	char line[AUDIT_LINE_MAX + 1];

	format(&event, "proxy1", line);
	cr_assert_str_eq(line,
		"{\"time\":\"2025-11-21T10:00:00.123456Z\",\"kind\":\"close\",\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\","
		"\"connection\":\"01ARZ3NDEKTSV4RRFFQ69G5FAW\",\"node\":\"proxy1\",\"user\":\"alice\","
		"\"client\":\"192.0.2.7\",\"client_port\":50123,\"listener\":\"2001:db8::1\",\"listener_port\":8443,"
		"\"tls_version\":\"TLSv1.3\",\"tls_cipher\":\"TLS_AES_256_GCM_SHA384\",\"tls_sni\":\"proxy.example\","
		"\"protocol\":\"http/1.1\",\"method\":\"CONNECT\",\"target\":\"www.example.com:443\","
		"\"address\":\"198.51.100.20\",\"address_port\":443,\"local\":\"::1\",\"local_port\":40000,\"rule\":\"web\","
		"\"status\":200,\"reason\":\"idle_timeout\",\"half_close\":\"clean\",\"bytes_up\":517,"
		"\"bytes_down\":18446744073709551615,\"duration_ms\":31}\n");
}

Test(format, what_is_not_known_is_left_out)
{
	static const struct {
		enum audit_kind kind;
		const char *line;
	} rows[] = {
		{ AUDIT_OPEN, "{\"time\":\"1970-01-01T00:00:00.000001Z\",\"kind\":\"open\"}\n" },
		{ AUDIT_PROGRESS, "{\"time\":\"1970-01-01T00:00:00.000001Z\",\"kind\":\"progress\",\"bytes_up\":0,\"bytes_down\":0,"
				  "\"duration_ms\":0}\n" },
		{ AUDIT_CLOSE, "{\"time\":\"1970-01-01T00:00:00.000001Z\",\"kind\":\"close\",\"reason\":\"ok\",\"bytes_up\":0,"
			       "\"bytes_down\":0,\"duration_ms\":0}\n" },
		{ AUDIT_DENY, "{\"time\":\"1970-01-01T00:00:00.000001Z\",\"kind\":\"deny\",\"reason\":\"ok\"}\n" },
	};
	struct addr none = { .len = 0 };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct audit_event event = { .kind = rows[i].kind, .time_us = 1, .client = &none };
		char line[AUDIT_LINE_MAX + 1];

		format(&event, i % 2 ? "" : NULL, line);
		cr_expect_str_eq(line, rows[i].line);
	}
}

Test(format, time_is_now_when_not_said)
{
	struct audit_event event = { .kind = AUDIT_OPEN };
	char line[AUDIT_LINE_MAX + 1], before[CLOCK_TEXT_SIZE], after[CLOCK_TEXT_SIZE];
	const char *said;

	clock_text(clock_wall_us(), before);
	format(&event, NULL, line);
	clock_text(clock_wall_us(), after);
	said = json_get(&json, "time", NULL);
	cr_assert(strcmp(before, said) <= 0 && strcmp(said, after) <= 0);
}

/* NULL in `hex`: there is none. */
static const struct {
	const char *text;
	size_t n;
	const char *raw, *hex;
} texts[] = {
	{ "plain", 5, "plain", NULL },
	{ "a\"b\\c/d", 7, "a\\\"b\\\\c/d", NULL },
	{ "\0", 1, "\\u0000", NULL },
	{ "\x01\n\r\t\x1b\x7f", 6, "\\u0001\\u000a\\u000d\\u0009\\u001b\\u007f", NULL },
	{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", NULL },
	{ "\xc2\x80\xc2\x85\xc2\x9f", 6, "\\u0080\\u0085\\u009f", NULL }, /* C1 */
	{ "\xe2\x80\xa8\xe2\x80\xa9", 6, "\\u2028\\u2029", NULL }, /* line and paragraph separator */
	{ "\xe2\x80\xae\xe2\x81\xa6\xef\xbb\xbf\xe2\x80\x8b", 12, "\\u202e\\u2066\\ufeff\\u200b", NULL },
	{ "\xf3\xa0\x81\x81\xf0\x9f\x98\x80", 8, "\\udb40\\udc41\xf0\x9f\x98\x80", NULL }, /* a tag; a face */
	{ "\xef\xb8\x8f\xe3\x85\xa4\xe1\xa0\x8e", 9, "\\ufe0f\\u3164\\u180e", NULL }, /* show nothing */
	{ "\xf0\x91\x82\xbd\xe0\xbc\x8b", 7, "\\ud804\\udcbd\xe0\xbc\x8b", NULL },
	{ "\xff", 1, "\xef\xbf\xbd", "ff" },
	{ "a\xff" "b", 3, "a\xef\xbf\xbd" "b", "61ff62" },
	{ "\xc3", 1, "\xef\xbf\xbd", "c3" }, /* cut short */
	{ "\xe2\x82", 2, "\xef\xbf\xbd\xef\xbf\xbd", "e282" },
	{ "\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd", "c0af" }, /* overlong */
	{ "\xe0\x80\xaf", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "e080af" },
	{ "\xf0\x80\x80\xaf", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "f08080af" },
	{ "\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "eda080" }, /* surrogate */
	{ "\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "f4908080" }, /* over U+10FFFF */
	{ "\x80" "a", 2, "\xef\xbf\xbd" "a", "8061" },
	{ "\xf4\x8f\xbf\xbf", 4, "\xf4\x8f\xbf\xbf", NULL },
};

Test(format, hostile_texts)
{
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct audit_event event = { .kind = AUDIT_OPEN, .target = { texts[i].text, texts[i].n } };
		char line[AUDIT_LINE_MAX + 1], want[128];
		const char *hex, *wrong;

		format(&event, NULL, line);
		snprintf(want, sizeof(want), "\"target\":\"%s\"", texts[i].raw);
		cr_expect(strstr(line, want), "row %zu: %s", i, line);
		hex = json_get(&json, "target_hex", NULL);
		cr_expect_eq(!hex, !texts[i].hex, "row %zu", i);
		if (hex && texts[i].hex)
			cr_expect_str_eq(hex, texts[i].hex);
		wrong = json_says(&json, "target", texts[i].text, texts[i].n);
		cr_expect(!wrong, "row %zu: %s", i, wrong);
	}
}

/* Every length around the bound, of bytes that take one, two, three and six bytes in the line. */
Test(format, long_texts_are_cut_visibly)
{
	static const char *const units[] = { "a", "\"", "\xff", "\x01", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };
	static char text[6000];

	for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
		size_t unit = strlen(units[u]);
		bool cut = false;

		for (size_t n = 0; n + unit < sizeof(text); n += unit)
			memcpy(text + n, units[u], unit);
		for (size_t n = unit; n < sizeof(text); n += (n > 300 && n < 330) || (n > 2030 && n < 2070) ? unit : 13 * unit) {
			struct audit_event event = { .kind = AUDIT_DENY, .target = { text, n }, .claimed_user = { text, n } };
			char line[AUDIT_LINE_MAX + 1];

			format(&event, NULL, line);
			cr_assert_null(json_says(&json, "target", text, n), "unit %zu, %zu bytes", u, n);
			cr_assert_null(json_says(&json, "claimed_user", text, n), "unit %zu, %zu bytes", u, n);
			cut = json_get(&json, "target_bytes", NULL) != NULL;
		}
		cr_assert(cut);
	}
}

/* All texts at once as long as can be and at their most expensive: still a line within AUDIT_LINE_MAX. */
Test(format, the_longest_line)
{
	static const char *const worst[] = { "\xff", "\x01", "a", "\xe2\x80\xa8" };
	static char text[8000];
	size_t longest = 0;

	for (size_t w = 0; w < sizeof(worst) / sizeof(worst[0]); w++) {
		struct addr a = addr("[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
		size_t unit = strlen(worst[w]), n = 0;
		char line[AUDIT_LINE_MAX + 1];

		for (; n + unit < 4000; n += unit)
			memcpy(text + n, worst[w], unit);
		memcpy(text + 40, "\xff", 1); /* every text has a hex form too */
		text[n] = '\0';
		format(&(struct audit_event){
			.kind = AUDIT_PROGRESS, .id = text, .connection = text, .user = text, .claimed_user = { text, n },
			.client = &a, .listener = &a, .tls_version = text, .tls_cipher = text, .tls_sni = text, .protocol = text,
			.method = { text, n }, .target = { text, n }, .address = &a, .local = &a, .rule = text, .status = 999,
			.half_close = text, .bytes_up = UINT64_MAX, .bytes_down = UINT64_MAX, .duration_ms = UINT64_MAX
		}, text, line);
		longest = strlen(line) > longest ? strlen(line) : longest;
	}
	cr_assert_leq(longest, (size_t)AUDIT_LINE_MAX);
	cr_assert_gt(longest, (size_t)AUDIT_LINE_MAX / 2, "the bound is no longer near: %zu", longest);
}

/* Any buffer that is too small gives nothing, and is not overrun. */
Test(format, small_buffers)
{
	struct addr a = addr("192.0.2.1:1");
	struct audit_event event = { .kind = AUDIT_CLOSE, .id = "x", .client = &a, .target = { "\xff\n", 2 }, .time_us = 1 };
	char line[AUDIT_LINE_MAX];
	size_t whole = audit_format(&event, "n", line, sizeof(line));

	for (size_t n = 0; n <= whole; n++) {
		memset(line, '#', sizeof(line));
		cr_assert_eq(audit_format(&event, "n", line, n), n < whole ? 0 : whole);
		cr_assert_eq(line[n], '#');
	}
}

Test(format, summary)
{
	struct addr client = addr("192.0.2.7:50123");
	struct cidr prefix = addr_prefix(&client, 24, 48);
	char line[AUDIT_LINE_MAX];
	size_t n = format_summary(line, sizeof(line), "node1", 60000000, 1, REASON_AUTH_FAILED, &prefix, 371);

	cr_assert(json_line_read(&json, line, n), "%s", json.wrong);
	cr_assert_str_eq(json_get(&json, "kind", NULL), "deny_summary");
	cr_assert_str_eq(json_get(&json, "reason", NULL), "auth_failed");
	cr_assert_str_eq(json_get(&json, "prefix", NULL), "192.0.2.0/24");
	cr_assert_str_eq(json_get(&json, "count", NULL), "371");
	cr_assert_str_eq(json_get(&json, "time", NULL), "1970-01-01T00:01:00.000000Z");
	cr_assert_str_eq(json_get(&json, "since", NULL), "1970-01-01T00:00:00.000001Z");
	n = format_summary(line, sizeof(line), NULL, 0, 1, REASON_AUTH_FAILED, NULL, 1);
	cr_assert(json_line_read(&json, line, n), "%s", json.wrong);
	cr_assert_str_eq(json_get(&json, "prefix", NULL), "other");
}
