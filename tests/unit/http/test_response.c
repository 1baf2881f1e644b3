/* Our own responses as text. */
#include "adit/http/response.h"

#include "adit/base/authority.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static char text[RESPONSE_MAX + 1];

static const char *format(const struct response *r, bool keep_alive, bool head_only)
{
	size_t n = response_format_h1(r, keep_alive, head_only, text);

	cr_assert_lt(n, (size_t)RESPONSE_MAX);
	text[n] = '\0';
	return text;
}

static size_t content_length(void)
{
	const char *p = strstr(text, "Content-Length: ");

	cr_assert_not_null(p);
	return strtoul(p + 16, NULL, 10);
}

Test(response, every_refusal_says_the_same_in_each_place)
{
	for (int i = 1; i < REASON_COUNT; i++) {
		enum reason reason = (enum reason)i;
		const struct reason_row *row = reason_row(reason);
		struct response r = response_refusal(reason);
		char expected[128];
		const char *body;

		if (row->status == 0)
			continue;
		format(&r, false, false);
		snprintf(expected, sizeof(expected), "HTTP/1.1 %d %s\r\n", row->status, response_phrase(row->status));
		cr_expect_eq(strncmp(text, expected, strlen(expected)), 0, "%s", text);
		cr_expect_str_neq(response_phrase(row->status), "Unknown", "%d", row->status);
		if (row->token)
			snprintf(expected, sizeof(expected), "\r\nProxy-Status: adit; error=%s; details=\"%s\"\r\n", row->token, row->name);
		else
			snprintf(expected, sizeof(expected), "\r\nProxy-Status: adit; details=\"%s\"\r\n", row->name);
		cr_expect_not_null(strstr(text, expected), "%s", text);
		body = strstr(text, "\r\n\r\n");
		cr_assert_not_null(body);
		cr_expect_eq(strncmp(body + 4, row->name, strlen(row->name)), 0, "%s", body);
		cr_expect_not_null(strstr(body, row->sentence));
		cr_expect_eq(content_length(), strlen(body + 4));
	}
}

Test(response, head_only_keeps_the_length_of_the_body)
{
	struct response r = { .status = 200, .body = { "hello", 5 } };

	format(&r, true, true);
	cr_expect_eq(content_length(), 5u);
	cr_expect_not_null(strstr(text, "Connection: keep-alive\r\n\r\n"));
	cr_expect_str_eq(text + strlen(text) - 4, "\r\n\r\n");
	cr_expect_null(strstr(text, "Proxy-Status"));
}

Test(response, only_a_407_challenges)
{
	struct response r = response_refusal(REASON_AUTH_FAILED);

	r.realm = "a \"quoted\\ realm\"";
	format(&r, false, false);
	cr_expect_not_null(strstr(text, "Proxy-Authenticate: Basic realm=\"a \\\"quoted\\\\ realm\\\"\", charset=\"UTF-8\"\r\n"), "%s", text);
	r = response_refusal(REASON_DENIED);
	r.realm = "adit";
	format(&r, false, false);
	cr_expect_null(strstr(text, "Proxy-Authenticate"));
}

Test(response, says_what_it_was_given)
{
	struct response r = response_refusal(REASON_AUTH_THROTTLED);

	r.retry_after_s = 17;
	cr_expect_not_null(strstr(format(&r, false, false), "Retry-After: 17\r\n"));
	r = response_refusal(REASON_METHOD_NOT_ALLOWED);
	r.allow = "CONNECT";
	cr_expect_not_null(strstr(format(&r, false, false), "Allow: CONNECT\r\n"));
	r = response_refusal(REASON_ADDRESS_DENIED);
	r.rule = "web";
	cr_expect_not_null(strstr(format(&r, false, false), "(rule web)\n"));
	r.address = "127.0.0.1:443";
	cr_expect_not_null(strstr(format(&r, false, false), "(rule web, address 127.0.0.1:443)\n"));
	r.rule = NULL;
	cr_expect_not_null(strstr(format(&r, false, false), "(address 127.0.0.1:443)\n"));
	r = (struct response){ .status = 200, .body = { "{}", 2 }, .content_type = "application/json" };
	cr_expect_not_null(strstr(format(&r, false, false), "Content-Type: application/json\r\n"));
}

Test(response, a_pac_file_names_the_proxy_and_nothing_else)
{
	static const char file[] =
		"function FindProxyForURL(url, host)\n{\n\treturn \"HTTPS proxy.example.org:8443\";\n}\n";
	static char longest[HOST_TEXT_MAX + sizeof("[]:65535")];
	struct response r = { .status = 200, .pac = "proxy.example.org:8443", .max_age_s = 300 };
	const char *body = strstr(format(&r, true, false), "\r\n\r\n");

	cr_assert_not_null(body);
	cr_expect_str_eq(body + 4, file);
	cr_expect_eq(content_length(), sizeof(file) - 1);
	cr_expect_not_null(strstr(text, "\r\nCache-Control: max-age=300\r\n"));
	cr_expect_null(strstr(text, "no-store"));
	cr_expect_null(strstr(text, "DIRECT"), "a browser without its proxy would go around it");
	body = strstr(format(&r, true, true), "\r\n\r\n");
	cr_expect_str_eq(body, "\r\n\r\n");
	cr_expect_eq(content_length(), sizeof(file) - 1);
	memset(longest, 'x', sizeof(longest) - 1);
	r.pac = longest;
	cr_expect_not_null(strstr(format(&r, true, false), longest));
}

Test(response, what_may_not_be_kept_says_so)
{
	struct response r = response_refusal(REASON_AUTH_REQUIRED);

	cr_expect_not_null(strstr(format(&r, false, false), "\r\nCache-Control: no-store\r\n"));
	cr_expect_null(strstr(text, "max-age"));
}

Test(response, an_unknown_status_has_a_phrase)
{
	cr_expect_str_eq(response_phrase(299), "Unknown");
}
