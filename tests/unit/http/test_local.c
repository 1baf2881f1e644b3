/* Requests to the proxy itself. */
#include "adit/http/local.h"

#include <criterion/criterion.h>

static char authority[] = "proxy.example.org:8443";
static struct conf without, with = { .http = { .pac = authority } };

static struct response ask_with(const struct conf *conf, enum head_method method, const char *path, bool draining)
{
	struct request r = { .method = method, .form = HEAD_FORM_ORIGIN, .path = slice_of(path), .conf = conf };

	return local_answer(&r, draining);
}

static struct response ask(enum head_method method, const char *path, bool draining)
{
	return ask_with(&without, method, path, draining);
}

Test(local, what_is_asked_and_what_is_answered)
{
	static const struct {
		enum head_method method;
		const char *path;
		bool draining;
		int status;
		enum reason reason;
	} cases[] = {
		{ HEAD_GET, "/healthz", false, 200, REASON_OK },
		{ HEAD_HEAD, "/healthz", false, 200, REASON_OK },
		{ HEAD_GET, "/healthz?probe=1", false, 200, REASON_OK },
		{ HEAD_GET, "/healthz", true, 503, REASON_DRAINING },
		{ HEAD_GET, "/healthz/", false, 404, REASON_OK },
		{ HEAD_GET, "/healthzz", false, 404, REASON_OK },
		{ HEAD_GET, "/", false, 200, REASON_OK },
		{ HEAD_GET, "/?", true, 200, REASON_OK },
		{ HEAD_GET, "/favicon.ico", false, 404, REASON_OK },
		{ HEAD_GET, "/proxy.pac", false, 404, REASON_OK },
		{ HEAD_HEAD, "/proxy.pac", false, 404, REASON_OK },
		{ HEAD_GET, "", false, 404, REASON_OK },
		{ HEAD_POST, "/healthz", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_PUT, "/", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_DELETE, "/", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_PATCH, "/", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_OPTIONS, "", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_TRACE, "/", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_CONNECT, "/", false, 405, REASON_METHOD_NOT_ALLOWED },
		{ HEAD_OTHER, "/", false, 501, REASON_METHOD_UNKNOWN },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct response r = ask(cases[i].method, cases[i].path, cases[i].draining);

		cr_expect_eq(r.status, cases[i].status, "%zu %s: %d", i, cases[i].path, r.status);
		cr_expect_eq(r.reason, cases[i].reason, "%zu", i);
		cr_expect_eq(r.allow != NULL, r.status == 405, "%zu: 405 must say what is allowed (RFC 9110 15.5.6)", i);
		if (r.status == 404)
			cr_expect_gt(r.body.n, 0u);
	}
}

/* What it is when the configuration has a host for it. */
Test(local, proxy_pac)
{
	static const struct {
		enum head_method method;
		const char *path;
		bool draining;
		int status;
	} cases[] = {
		{ HEAD_GET, "/proxy.pac", false, 200 },
		{ HEAD_HEAD, "/proxy.pac", false, 200 },
		{ HEAD_GET, "/proxy.pac", true, 200 },
		{ HEAD_GET, "/proxy.pac?x=1", false, 200 },
		{ HEAD_GET, "/proxy.pacs", false, 404 },
		{ HEAD_GET, "/proxy.pac/", false, 404 },
		{ HEAD_GET, "/Proxy.pac", false, 404 },
		{ HEAD_GET, "//proxy.pac", false, 404 },
		{ HEAD_POST, "/proxy.pac", false, 405 },
		{ HEAD_OTHER, "/proxy.pac", false, 501 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct response r = ask_with(&with, cases[i].method, cases[i].path, cases[i].draining);

		cr_expect_eq(r.status, cases[i].status, "%zu %s: %d", i, cases[i].path, r.status);
		cr_expect_eq(r.pac != NULL, r.status == 200, "%zu %s", i, cases[i].path);
		if (r.status != 200)
			continue;
		cr_expect_str_eq(r.pac, authority);
		cr_expect_str_eq(r.content_type, "application/x-ns-proxy-autoconfig");
		cr_expect_eq(r.max_age_s, 300u);
		cr_expect_eq(r.reason, REASON_OK);
	}
	cr_expect_eq(ask_with(&with, HEAD_GET, "/", false).pac, NULL);
	cr_expect_eq(ask_with(&with, HEAD_GET, "/healthz", false).max_age_s, 0u);
}
