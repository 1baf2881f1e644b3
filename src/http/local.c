/* The proxy's own pages. */
#include "adit/http/local.h"

enum { PAC_MAX_AGE_S = 300 };

static const char page[] =
	"This is adit, a secure web proxy. It tunnels and forwards: set it as the HTTPS proxy of your client\n"
	"(curl -x https://HOST:PORT -U USER https://example.com/), do not browse to it.\n";

/* A TRACE that does not fit into an answer of ours is refused: its sender wanted to see all of it. */
enum { REFLECTED_MAX = 1900 };

struct response local_last_hop(const struct request *r)
{
	static const char options[] = "Requests for http:// URLs are forwarded, by any method.\n";

	if (r->method == HEAD_TRACE && r->forward.n > REFLECTED_MAX)
		return response_refusal(REASON_HEAD_TOO_LARGE);
	if (r->method == HEAD_TRACE)
		return (struct response){ .status = 200, .content_type = "message/http", .body = r->forward };
	return (struct response){
		.status = 200,
		.allow = "CONNECT, GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE, PATCH",
		.body = slice_of(options),
	};
}

struct response local_answer(const struct request *r, bool draining)
{
	struct slice path = r->path;
	const char *query = path.n > 0 ? memchr(path.p, '?', path.n) : NULL;

	if (r->method == HEAD_OTHER)
		return response_refusal(REASON_METHOD_UNKNOWN);
	if (r->method != HEAD_GET && r->method != HEAD_HEAD)
		return response_refusal(REASON_METHOD_NOT_ALLOWED);
	if (query)
		path.n = (size_t)(query - path.p);
	if (slice_eq(path, slice_of("/healthz"))) {
		if (draining)
			return response_refusal(REASON_DRAINING);
		return (struct response){ .status = 200, .body = slice_of("ok\n") };
	}
	/* While draining, too: what browsers keep for the next minutes must not depend on the moment. */
	if (slice_eq(path, slice_of("/proxy.pac")) && r->conf->http.pac)
		return (struct response){
			.status = 200,
			.content_type = "application/x-ns-proxy-autoconfig",
			.max_age_s = PAC_MAX_AGE_S,
			.pac = r->conf->http.pac,
		};
	if (slice_eq(path, slice_of("/")))
		return (struct response){ .status = 200, .body = slice_of(page) };
	return (struct response){ .status = 404, .body = slice_of(page) };
}
