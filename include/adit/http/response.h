/* A response of the proxy's own: refusals, the 407 challenge, health, the page for lost browsers. */
#ifndef ADIT_HTTP_RESPONSE_H
#define ADIT_HTTP_RESPONSE_H

#include "adit/base/reason.h"
#include "adit/base/slice.h"

struct response {
	int status;
	enum reason reason; /* REASON_OK: no Proxy-Status */
	const char *realm; /* 407: the challenge's realm */
	const char *allow; /* 405: Allow's value */
	unsigned retry_after_s; /* 0: none */
	unsigned max_age_s; /* may be cached so long; 0: no-store */
	const char *content_type; /* NULL: text/plain */
	/* Told in the body only to users who have logged in; NULL: nothing more to tell. */
	const char *rule;
	const char *address;
	const char *pac; /* host:port of this proxy: the body is the PAC file that leads to it */
	struct slice body; /* empty: made from the reason's sentence */
};

/* A refusal for the reason's status. */
struct response response_refusal(enum reason reason);

/* RFC 9110 reason phrase. */
const char *response_phrase(int status);

/* Head and body as HTTP/1.1, `head_only` without the body (HEAD). Number of bytes, at most RESPONSE_MAX; a body that
 * does not fit is a programming error. Pure. */
enum { RESPONSE_MAX = 4096 };
size_t response_format_h1(const struct response *r, bool keep_alive, bool head_only, char out[static RESPONSE_MAX]);

#endif
