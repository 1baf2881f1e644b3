/* From a head to the neutral request. */
#include "adit/http/request.h"

#include "adit/base/mem.h"
#include "adit/http/forward.h"

/* A refused target may hold a password before an '@' (RFC 3986 3.2.1): that part is for no record and no log. */
static struct slice without_userinfo(struct slice target)
{
	const char *at = memrchr(target.p, '@', target.n);

	return at ? (struct slice){ at + 1, (size_t)(target.p + target.n - at) - 1 } : target;
}

/* Keeps what the record needs beyond the head's buffer. */
static bool keep_line(struct request *r, const struct head *head)
{
	struct slice target = r->fault != REASON_OK && head->target.n > 0 ? without_userinfo(head->target) : head->target;
	size_t m = head->method_text.n, t = target.n;

	r->line = mem_alloc(m + t + 1);
	if (!r->line)
		return false;
	if (m > 0)
		memcpy(r->line, head->method_text.p, m);
	if (t > 0)
		memcpy(r->line + m, target.p, t);
	r->method_text = (struct slice){ r->line, m };
	r->target = (struct slice){ r->line + m, t };
	r->path = head->form == HEAD_FORM_ORIGIN ? r->target : (struct slice){ 0 };
	return true;
}

/* RFC 9110 9.3.8: what a TRACE brought, but for fields that hold secrets. Never longer than it came. */
static size_t reflect(const struct head *head, char *out)
{
	static const char *const secret[] = { "Proxy-Authorization", "Authorization", "Cookie" };
	struct slice rest = head->fields, parts[] = { head->method_text, slice_of(" "), head->target,
		slice_of(head->minor_version == 0 ? " HTTP/1.0\r\n" : " HTTP/1.1\r\n") };
	struct head_field field;
	size_t n = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); n += parts[i++].n)
		memcpy(out + n, parts[i].p, parts[i].n);
	for (const char *line = rest.p; head_next_field(&rest, &field); line = rest.p) {
		bool hidden = false;

		for (size_t i = 0; i < sizeof(secret) / sizeof(secret[0]); i++)
			hidden = hidden || slice_ieq(field.name, slice_of(secret[i]));
		if (hidden)
			continue;
		memcpy(out + n, line, (size_t)(rest.p - line));
		n += (size_t)(rest.p - line);
	}
	memcpy(out + n, "\r\n", 2);
	return n + 2;
}

/* The head for the target; while the request's own is whole. */
static bool make_forward(struct request *r, const struct head *head)
{
	bool old = strcmp(r->protocol, "http/1.0") == 0, two = strcmp(r->protocol, "h2") == 0;
	struct forward_options options = {
		.protocol = two ? "2" : old ? "1.0" : "1.1",
		.framing = forward_request_framing(head),
		.upgrade = !two && forward_wants_upgrade(head),
		.keep_alive = r->conf->forward.idle_connections > 0,
	};
	size_t room = forward_room(head) + head->target.n, n;
	struct forward_hops hops;

	r->fault = forward_max_forwards(head, &hops);
	if (r->fault != REASON_OK)
		return true;
	r->framing = options.framing;
	r->upgrade = options.upgrade;
	r->last_hop = hops.zero;
	r->forward_text = mem_alloc(room);
	if (!r->forward_text)
		return false;
	n = hops.zero ? reflect(head, r->forward_text) : forward_request_head(head, &options, r->forward_text, room);
	ADIT_ASSERT(n > 0 && n <= room);
	r->forward = (struct slice){ r->forward_text, n };
	return true;
}

bool request_fill(struct request *r, const struct head *head, enum reason fault, const char *protocol)
{
	r->fault = fault;
	r->protocol = protocol;
	r->method = head->method;
	r->form = head->form;
	r->has_authority = head->has_authority;
	r->authority = head->authority;
	r->has_credentials = head->has_proxy_authorization;
	r->credentials = head->proxy_authorization;
	if (!keep_line(r, head))
		return false;
	return fault != REASON_OK || head->form != HEAD_FORM_ABSOLUTE || make_forward(r, head);
}

void request_clear(struct request *r)
{
	mem_free(r->line);
	mem_free(r->forward_text);
	r->line = r->forward_text = NULL;
	r->forward = (struct slice){ 0 };
}
