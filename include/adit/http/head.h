/* The head of an HTTP/1 request (RFC 9112), read strictly: bytes in, result out. No allocation, no I/O, no clock.
 *
 * Resumable at any byte: the caller collects bytes in one buffer and calls head_parse whenever there are more; what
 * was looked at is not looked at again. The outcome, limits and the reason of a refusal included, depends on the bytes
 * alone and never on how they were cut. The buffer may move between calls, but what was shown must stay the same. */
#ifndef ADIT_HTTP_HEAD_H
#define ADIT_HTTP_HEAD_H

#include "adit/base/authority.h"
#include "adit/base/reason.h"
#include "adit/base/slice.h"
#include <stdint.h>

struct head_limits {
	size_t request_line_bytes; /* without its CRLF; over: URI_TOO_LONG. For a response's status line too. */
	size_t head_bytes; /* all, with the empty line; over: HEAD_TOO_LARGE. A buffer of this size is enough. */
	size_t fields; /* field lines; over: TOO_MANY_FIELDS */
};

enum head_method {
	HEAD_CONNECT, HEAD_GET, HEAD_HEAD, HEAD_POST, HEAD_PUT, HEAD_DELETE, HEAD_OPTIONS, HEAD_TRACE, HEAD_PATCH,
	HEAD_OTHER /* a well-formed name that is none of these; case matters */
};

enum head_form {
	HEAD_FORM_ORIGIN, /* "/path" */
	HEAD_FORM_ABSOLUTE, /* "http://host[:port][/path]", never with CONNECT */
	HEAD_FORM_AUTHORITY, /* "host:port", CONNECT and only CONNECT */
	HEAD_FORM_ASTERISK /* "*", only OPTIONS */
};

struct head_field {
	struct slice name, value; /* value without the white space around it */
};

/* All slices lie in the buffer of the call that answered. */
struct head {
	enum head_method method;
	enum head_form form;
	struct slice method_text, target;
	struct slice path; /* origin form: the target; absolute form: what follows the authority ("", "?q"); else empty */
	unsigned minor_version; /* 0 or 1; HTTP/1.2 to 1.9 are served as 1 */
	bool has_authority; /* authority and absolute form */
	struct authority authority; /* absolute form: port 80 when none is given */
	bool has_host;
	struct slice host; /* checked to be host[:port], or empty (not with CONNECT). RFC 9112 3.2.2: the authority of the
	                    * target wins over a Host that differs, which is no fault here */
	bool has_proxy_authorization;
	struct slice proxy_authorization;
	bool keep_alive; /* 1.1 without Connection: close; never for 1.0 (RFC 9112 9.3, we are a proxy) */
	bool has_content_length;
	unsigned long long content_length;
	bool chunked; /* Transfer-Encoding: chunked, the only one taken, and never with CONNECT, 1.0 or Content-Length */
	bool expect_continue;
	size_t field_count;
	struct slice fields; /* the field lines, for head_next_field */
	size_t head_bytes; /* consumed, the empty line and an ignored leading CRLF included; what follows is not ours */
};

/* Options that Connection may name in one head; over: TOO_MANY_FIELDS. So what they name is found in no time. */
enum { HEAD_OPTIONS_MAX = 64 };

struct head_span {
	size_t from, n;
};

struct head_rules; /* head.c's and response_head.c's: constants */

/* State between calls: offsets, never pointers into the buffer. Nothing in it needs to be freed. */
struct head_parser {
	const struct head_rules *rules;
	enum { HEAD_IN_START_LINE, HEAD_IN_FIELDS, HEAD_IS_DONE, HEAD_IS_BAD } phase;
	enum reason why; /* HEAD_IS_BAD */
	bool after_cr, crlf_ignored;
	size_t at; /* bytes looked at */
	size_t line; /* where the line at hand begins */
	enum head_method method;
	unsigned minor_version;
	struct head_span method_text, target, host, proxy_authorization;
	bool has_host, has_proxy_authorization, has_content_length, has_transfer_encoding, chunked, close, expect_continue;
	unsigned long long content_length;
	size_t fields_from, field_count, option_count;
	int status; /* responses */
	struct head_span reason_phrase;
	bool has_websocket;
};

enum head_status { HEAD_DONE, HEAD_PARTIAL, HEAD_BAD };

void head_init(struct head_parser *p);

/* buf[0..len) is everything since the head began. PARTIAL: call again with more, `out` is untouched. DONE: `out` is
 * filled. BAD: *why says what is wrong, out->method_text and out->target are set when the request line had been read
 * (for the record), all else is zero; the bytes after are never to be read as a request.
 * DONE and BAD stay: a further call answers the same.
 *
 * Proxy-Authorization twice is AUTH_MALFORMED. Content-Length more than once is fine as long as all say the same. */
enum head_status head_parse(struct head_parser *p, const char *buf, size_t len, const struct head_limits *limits,
			    struct head *out, enum reason *why);

/* Walks over the fields: struct slice rest = head.fields; while (head_next_field(&rest, &field)) ... */
bool head_next_field(struct slice *rest, struct head_field *out);

#endif
