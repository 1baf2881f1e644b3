/* One request, whichever HTTP version it came by, and what its handler can do with it.
 *
 * http makes it and owns it; the handler (tunnel) answers it exactly once: request_respond, or request_accept and later
 * request_end. Until then it may be told that the client is gone. */
#ifndef ADIT_HTTP_REQUEST_H
#define ADIT_HTTP_REQUEST_H

#include "adit/audit/audit.h"
#include "adit/base/addr.h"
#include "adit/conf/conf.h"
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
	loop_fn *authenticated; /* told once a login on this connection succeeded */
	void *authenticated_ctx;
};

struct request;

struct request_ops {
	void (*forget)(struct request *r);
	void (*respond)(struct request *r, const struct response *response);
	struct stream *(*accept)(struct request *r);
	void (*end)(struct request *r);
};

struct request {
	const struct request_ops *ops;
	const struct client *client;
	const struct conf *conf; /* the connection's */
	const char *protocol; /* "http/1.1" */
	enum reason fault; /* REASON_OK, or what is wrong with the head: it can only be refused */
	enum head_method method;
	enum head_form form;
	struct slice method_text, target; /* as sent; valid as long as the request */
	struct slice path; /* origin form; valid as long as the request */
	bool has_authority;
	struct authority authority;
	bool has_credentials;
	struct slice credentials; /* Proxy-Authorization's value; until request_forget */
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

#endif
