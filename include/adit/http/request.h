/* One request, whichever HTTP version it came by, and what its handler can do with it.
 *
 * http makes it and owns it; the handler (tunnel) answers it exactly once: request_respond, or request_accept and later
 * request_end. Until then it may be told that the client is gone. */
#ifndef ADIT_HTTP_REQUEST_H
#define ADIT_HTTP_REQUEST_H

#include "adit/audit/audit.h"
#include "adit/base/addr.h"
#include "adit/conf/conf.h"
#include "adit/http/body.h"
#include "adit/http/head.h"
#include "adit/http/response.h"
#include "adit/stream/stream.h"

/* The client's connection: facts for records and limits. Outlives every request on it. */
struct client {
	struct addr address; /* the peer */
	struct addr listener; /* our side */
	char id[AUDIT_ID_SIZE];
	const char *tls_version, *tls_cipher, *tls_sni;
	bool close_after_refusal; /* RFC 9931 */
	bool logged_in; /* a login has succeeded on this connection */
	unsigned *wrong; /* wrong passwords in a row on it, the handler's to count; NULL: not counted */
	loop_fn *authenticated; /* told once a login on this connection succeeded */
	void *authenticated_ctx;
};

struct request;

struct request_ops {
	void (*forget)(struct request *r);
	void (*respond)(struct request *r, const struct response *response);
	struct stream *(*accept)(struct request *r);
	void (*end)(struct request *r);
	/* absolute form only */
	struct stream *(*exchange)(struct request *r);
	bool (*interim)(struct request *r, int status, struct slice fields);
	bool (*reply)(struct request *r, int status, struct slice fields, struct framing framing);
};

struct request {
	const struct request_ops *ops;
	const struct client *client;
	const struct conf *conf; /* the connection's */
	const char *protocol; /* "http/1.1" */
	enum reason fault; /* REASON_OK, or what is wrong with the head: it can only be refused. Once an exchange has
	                    * begun: what is wrong with its body, set before its stream shows the fault */
	enum head_method method;
	enum head_form form;
	struct slice method_text, target; /* as sent; valid as long as the request */
	struct slice path; /* origin form; valid as long as the request */
	bool has_authority;
	struct authority authority;
	bool has_credentials;
	struct slice credentials; /* Proxy-Authorization's value; until request_forget */

	/* absolute form: the head that goes to the target (no credential is in it), and how the body behind it is sent */
	struct slice forward;
	struct framing framing;
	bool upgrade; /* a 101 may answer it */
	bool last_hop; /* Max-Forwards: 0: answered here. TRACE: `forward` is the request as it came, without secrets */
	struct slice trailers; /* behind the body, once its end has been read: field lines that may pass */
	struct slice reply_trailers; /* set by the handler before it finishes the response's body; its own memory */

	char *line, *forward_text; /* request.c's: what the slices above point into */
};

struct http_handler {
	/* A request is there. The handler answers now or later. Returns what `gone` is called with. */
	void *(*begin)(void *ctx, struct request *r);
	/* The request (or its tunnel) must end for `reason`; no call of the request's operations but, for a tunnel that
	 * was accepted, closing its stream and request_end. */
	void (*gone)(void *object, enum reason reason);
};

/* The credentials were looked at: wipes them and everything else of the head that is not needed any more. */
static inline void request_forget(struct request *r)
{
	r->ops->forget(r);
}

/* The final response. `r` is not the handler's any more. */
static inline void request_respond(struct request *r, const struct response *response)
{
	r->ops->respond(r, response);
}

/* 200 to a CONNECT. The client's side of the tunnel, attached to nobody, with the bytes that came behind the head;
 * to be closed by the handler, who then calls request_end. NULL: the client is gone or memory is: respond is not
 * possible any more either, the handler calls request_end. */
static inline struct stream *request_accept(struct request *r)
{
	return r->ops->accept(r);
}

static inline void request_end(struct request *r)
{
	r->ops->end(r);
}

/* An exchange: the request is forwarded. The client's side as a stream of bodies, attached to nobody: what is read is
 * the request's body, up to its end; what is written (after request_reply) is the response's, and stream_finish is its
 * end. Until request_reply the handler may still request_respond, which closes this stream as well.
 * After the reply: stream_close(FLUSH) when the response was finished, else any other close, which breaks the message
 * so that the client sees it; then request_end. NULL: as with request_accept. */
static inline struct stream *request_exchange(struct request *r)
{
	return r->ops->exchange(r);
}

/* 1xx but 101, passed on where the client's version has it. `fields`: lines that may pass. False: out of memory, or the
 * client is gone: the stream of the exchange is broken. */
static inline bool request_interim(struct request *r, int status, struct slice fields)
{
	return r->ops->interim(r, status, fields);
}

/* The final response's head; 101 when r->upgrade: both sides of the stream are raw bytes from here on. */
static inline bool request_reply(struct request *r, int status, struct slice fields, struct framing framing)
{
	return r->ops->reply(r, status, fields, framing);
}

/* --- for http --- */

/* Everything that is known from a head; copies what must outlive the head's buffer but the credentials. `protocol` is
 * a constant. False: out of memory. */
bool request_fill(struct request *r, const struct head *head, enum reason fault, const char *protocol) ADIT_MUST_USE;
void request_clear(struct request *r);

#endif
