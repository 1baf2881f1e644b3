/* A request on its way through a proxy, and the response to it: what RFC 9110 7.6 and RFC 9112 want changed. Pure. */
#ifndef ADIT_HTTP_FORWARD_H
#define ADIT_HTTP_FORWARD_H

#include "adit/base/obj.h"
#include "adit/http/body.h"
#include "adit/http/head.h"

/* How the request's body is to be sent, out of its head. h2: no Content-Length and no END_STREAM is CHUNKED. */
struct framing forward_request_framing(const struct head *head);

/* Whether the client asks for another protocol on this connection that may pass: Upgrade named by Connection,
 * HTTP/1.1, no body, and it is websocket. Others (h2c) would be a way around what is said here of each request. */
bool forward_wants_upgrade(const struct head *head);

/* The head in origin form for the target, as HTTP/1.1:
 * - "METHOD path HTTP/1.1", empty path "/" (OPTIONS without path and query: "*"), "?q" becomes "/?q";
 * - Host from the target (RFC 9112 3.2.2), whatever Host the client sent, first of all fields;
 * - without Connection and what it names, Keep-Alive, Proxy-Connection, Proxy-Authorization, Proxy-Authenticate, TE,
 *   Transfer-Encoding, Upgrade (unless `upgrade`), Content-Length, Max-Forwards (OPTIONS and TRACE get it anew), Host,
 *   HTTP2-Settings; Connection cannot name away what is end-to-end and needed (Host, Content-Length, ...);
 * - Via appended ("1.1 adit" by `protocol`: "1.0", "1.1" or "2"), framing and Connection as given.
 * Number of bytes; 0: out of room. Allocates nothing. */
struct forward_options {
	const char *protocol; /* by which it came, as Via wants it */
	struct framing framing;
	bool upgrade;
	bool keep_alive; /* else Connection: close is sent */
};
size_t forward_request_head(const struct head *head, const struct forward_options *options, char *out, size_t size);
/* So much room is always enough for a head of head_bytes. */
size_t forward_room(const struct head *head);

/* OPTIONS and TRACE with Max-Forwards: 0 are answered by the proxy itself (RFC 9110 7.6.2). REASON_OK: forward it; else
 * what is wrong with the field. */
struct forward_hops {
	bool has, zero;
	unsigned long long left; /* to be sent */
};
enum reason forward_max_forwards(const struct head *head, struct forward_hops *out) ADIT_MUST_USE;

/* --- the response --- */

struct response_head {
	int status; /* 100 to 599 */
	unsigned minor_version;
	bool keep_alive; /* the connection can take another request behind this message */
	bool upgrade; /* 101 */
	struct framing framing; /* of its body: depends on the request's method (RFC 9112 6.3) */
	struct slice reason_phrase;
	struct slice fields; /* all field lines as received */
	size_t head_bytes;
};

/* Like head_parse, whose strictness, limits and resumability it shares: the same parser, for a status line.
 * BAD: *why is RESPONSE_INVALID for everything that could be read in two ways (two Content-Lengths that differ, with
 * Transfer-Encoding, codings other than chunked, bad lines), RESPONSE_TOO_LARGE for limits. */
struct response_parser {
	struct head_parser head;
	enum head_method method; /* of the request */
};
void response_parser_init(struct response_parser *p, enum head_method method);
enum head_status response_parse(struct response_parser *p, const char *buf, size_t len,
				const struct head_limits *limits, struct response_head *out, enum reason *why);

/* Writes the fields that pass to the client as lines with CRLF: without Connection and what it names, Keep-Alive,
 * Proxy-Connection, Proxy-Authenticate, Proxy-Authorization, TE, Transfer-Encoding, Upgrade (101: "websocket", and who
 * writes the head adds "Connection: upgrade"), Content-Length (the framing says it; but with FRAMING_NONE to a HEAD or
 * in a 304 it tells about another message, and stays); Via appended. Interim and final responses alike. Bytes; 0: out
 * of room. head->fields.n + FORWARD_FIELDS_ROOM is always enough. */
enum { FORWARD_FIELDS_ROOM = 64 };
size_t forward_response_fields(const struct response_head *head, char *out, size_t size);
/* Trailer fields that may pass (RFC 9110 6.5.1): none that frame, route, authenticate or control the message. Bytes,
 * never more than trailers.n; 0: nothing passes, or out of room. */
size_t forward_trailers(struct slice trailers, char *out, size_t size);

#endif
