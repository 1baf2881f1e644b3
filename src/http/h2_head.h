/* Heads between HTTP/2's field sections and the text that HTTP/1.1 has for them: the parser, the limits and the answers
 * of the one serve the other as well. */
#ifndef ADIT_SRC_HTTP_H2_HEAD_H
#define ADIT_SRC_HTTP_H2_HEAD_H

#include "adit/base/obj.h"
#include "adit/base/slice.h"

#include <nghttp2/nghttp2.h>
#include <stdbool.h>

/* A growing text that is wiped whenever it moves or goes. */
struct h2_text {
	char *p;
	size_t n, size;
};
void h2_text_wipe(struct h2_text *t);

/* One field section as it comes in. */
struct h2_head {
	struct h2_text method, scheme, authority, path; /* pseudo-header fields */
	struct h2_text fields; /* "name: value\r\n" each */
	struct h2_text cookie; /* its crumbs joined (RFC 9113 8.2.3) */
	bool has_content_length;
	size_t bytes; /* as RFC 9113 6.5.2 counts them */
	bool too_large, no_memory;
};

/* Takes one field, checked by nghttp2; more than `most` bytes in all: too_large, and the rest is not kept. */
void h2_head_add(struct h2_head *h, struct slice name, struct slice value, size_t most);
/* The whole as the head of an HTTP/1.1 request: CONNECT in authority form, "http" in absolute form, "https" (the proxy
 * itself is the origin) in origin form. `body`: DATA follows; without a Content-Length it is chunked. False: out of
 * memory. */
bool h2_head_request(const struct h2_head *h, bool body, struct h2_text *out) ADIT_MUST_USE;
void h2_head_wipe(struct h2_head *h);

/* The fields of an HTTP/1.1 text as nghttp2 takes them, names made lower-case in place, without those that only a
 * connection of HTTP/1.1 has. The values point into the text. */
struct h2_fields {
	nghttp2_nv *nv;
	size_t n, size;
	char status[4];
};
/* status 0: none (trailers). Frees nothing of an earlier use. False: out of memory. */
bool h2_fields_make(struct h2_fields *f, int status, char *fields, size_t n) ADIT_MUST_USE;
bool h2_fields_add(struct h2_fields *f, const char *name, const char *value) ADIT_MUST_USE;
void h2_fields_free(struct h2_fields *f);

#endif
