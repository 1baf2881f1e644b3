/* Responses of our own as HTTP/1.1 text.
 *
 * Everything in them comes from constants, numbers and the configuration (realm, rule names, the PAC file's host:
 * checked there); nothing of the client's, so that there is nothing to split. */
#include "adit/http/response.h"

#include "adit/base/obj.h"

#include <stdarg.h>
#include <stdio.h>

struct response response_refusal(enum reason reason)
{
	int status = reason_row(reason)->status;

	return (struct response){
		.status = status,
		.reason = reason,
		.allow = status == 405 ? "CONNECT, GET, HEAD" : NULL,
	};
}

const char *response_phrase(int status)
{
	static const struct {
		int status;
		const char *phrase;
	} table[] = {
		{ 100, "Continue" },
		{ 101, "Switching Protocols" },
		{ 102, "Processing" },
		{ 103, "Early Hints" },
		{ 200, "OK" },
		{ 201, "Created" },
		{ 202, "Accepted" },
		{ 203, "Non-Authoritative Information" },
		{ 204, "No Content" },
		{ 205, "Reset Content" },
		{ 206, "Partial Content" },
		{ 207, "Multi-Status" },
		{ 300, "Multiple Choices" },
		{ 301, "Moved Permanently" },
		{ 302, "Found" },
		{ 303, "See Other" },
		{ 304, "Not Modified" },
		{ 307, "Temporary Redirect" },
		{ 308, "Permanent Redirect" },
		{ 400, "Bad Request" },
		{ 401, "Unauthorized" },
		{ 402, "Payment Required" },
		{ 403, "Forbidden" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 406, "Not Acceptable" },
		{ 407, "Proxy Authentication Required" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 410, "Gone" },
		{ 411, "Length Required" },
		{ 412, "Precondition Failed" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 415, "Unsupported Media Type" },
		{ 416, "Range Not Satisfiable" },
		{ 417, "Expectation Failed" },
		{ 421, "Misdirected Request" },
		{ 422, "Unprocessable Content" },
		{ 423, "Locked" },
		{ 424, "Failed Dependency" },
		{ 426, "Upgrade Required" },
		{ 428, "Precondition Required" },
		{ 429, "Too Many Requests" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 502, "Bad Gateway" },
		{ 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" },
		{ 505, "HTTP Version Not Supported" },
		{ 507, "Insufficient Storage" },
		{ 511, "Network Authentication Required" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].status == status)
			return table[i].phrase;
	return "Unknown";
}

/* An appender that cannot overrun; what does not fit is a programming error. */
struct text {
	char *p;
	size_t size, n;
};

static void ADIT_PRINTF(2, 3) put(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->p + t->n, t->size - t->n, fmt, args);
	va_end(args);
	ADIT_ASSERT(n >= 0 && (size_t)n < t->size - t->n);
	t->n += (size_t)n;
}

/* RFC 9110 5.6.4: a quoted-string of text that is printable already. */
static void put_quoted(struct text *t, const char *s)
{
	put(t, "\"");
	for (; *s; s++)
		put(t, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
	put(t, "\"");
}

/* No DIRECT behind it: a browser that cannot reach the proxy must not go around it. */
static void put_pac(struct text *t, const char *authority)
{
	put(t, "function FindProxyForURL(url, host)\n{\n\treturn \"HTTPS %s\";\n}\n", authority);
}

static void put_body(struct text *t, const struct response *r)
{
	if (r->pac) {
		put_pac(t, r->pac);
		return;
	}
	if (r->body.n > 0) {
		put(t, SLICE_FMT, SLICE_ARG(r->body));
		return;
	}
	put(t, "%s: %s", reason_name(r->reason), reason_row(r->reason)->sentence);
	if (r->rule || r->address)
		put(t, " (%s%s%s%s%s)", r->rule ? "rule " : "", r->rule ? r->rule : "", r->rule && r->address ? ", " : "",
		    r->address ? "address " : "", r->address ? r->address : "");
	put(t, "\n");
}

size_t response_format_h1(const struct response *r, bool keep_alive, bool head_only, char out[static RESPONSE_MAX])
{
	const struct reason_row *row = reason_row(r->reason);
	char body_bytes[RESPONSE_MAX / 2];
	struct text body = { body_bytes, sizeof(body_bytes), 0 };
	struct text t = { out, RESPONSE_MAX, 0 };

	put_body(&body, r);
	put(&t, "HTTP/1.1 %d %s\r\n", r->status, response_phrase(r->status));
	if (r->status == 407 && r->realm) {
		put(&t, "Proxy-Authenticate: Basic realm=");
		put_quoted(&t, r->realm);
		put(&t, ", charset=\"UTF-8\"\r\n");
	}
	if (r->reason != REASON_OK) {
		put(&t, "Proxy-Status: adit");
		if (row->token)
			put(&t, "; error=%s", row->token);
		put(&t, "; details=\"%s\"\r\n", row->name);
	}
	if (r->allow)
		put(&t, "Allow: %s\r\n", r->allow);
	if (r->retry_after_s > 0)
		put(&t, "Retry-After: %u\r\n", r->retry_after_s);
	put(&t, "Content-Type: %s\r\nContent-Length: %zu\r\n",
	    r->content_type ? r->content_type : "text/plain; charset=utf-8", body.n);
	if (r->max_age_s > 0)
		put(&t, "Cache-Control: max-age=%u\r\n", r->max_age_s);
	else
		put(&t, "Cache-Control: no-store\r\n");
	put(&t, "Connection: %s\r\n\r\n", keep_alive ? "keep-alive" : "close");
	if (!head_only)
		put(&t, SLICE_FMT, (int)body.n, body.p);
	return t.n;
}
