/* From a head to the neutral request. */
#include "adit/http/request.h"

#include "adit/base/mem.h"

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
	return keep_line(r, head);
}

void request_clear(struct request *r)
{
	mem_free(r->line);
	mem_free(r->forward_text);
	r->line = r->forward_text = NULL;
}
