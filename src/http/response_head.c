/* The head of a target's response: the parser of request heads with the rules of a status line.
 *
 * What is hard is where the message ends (RFC 9112 6.3): two readers that disagree there take one response's bytes for
 * another response's head. So whatever leaves room for two readings is refused, although much of it is out there. */
#include "adit/http/forward.h"

#include "http/head_priv.h"

/* HTTP-version SP status-code SP [reason-phrase]. The second SP is forgiven, as everybody does: nothing follows it. */
static enum reason status_line_parse(struct head_parser *p, const char *buf, struct slice line)
{
	unsigned long long status;
	struct slice phrase = { line.p + line.n, 0 };
	enum reason why;

	if (line.n < 12 || line.p[8] != ' ' || (line.n > 12 && line.p[12] != ' '))
		return REASON_RESPONSE_INVALID;
	why = head_version((struct slice){ line.p, 8 }, &p->minor_version);
	if (why != REASON_OK)
		return why;
	if (!slice_to_u64((struct slice){ line.p + 9, 3 }, 599, &status) || status < 100)
		return REASON_RESPONSE_INVALID;
	if (line.n > 13)
		phrase = (struct slice){ line.p + 13, line.n - 13 };
	p->status = (int)status;
	p->reason_phrase = head_span_of(buf, phrase);
	return REASON_OK;
}

static enum reason on_upgrade(struct head_parser *p, ADIT_UNUSED const char *buf, struct slice value)
{
	p->has_websocket |= head_list_has(value, "websocket");
	return REASON_OK;
}

static const struct head_field_rule RESPONSE_FIELDS[] = {
	{ "Content-Length", head_on_content_length },
	{ "Transfer-Encoding", head_on_transfer_encoding },
	{ "Connection", head_on_connection },
	{ "Upgrade", on_upgrade },
	{ NULL, NULL },
};

static enum reason response_check(const struct head_parser *p, ADIT_UNUSED const char *buf)
{
	bool body = p->has_transfer_encoding || p->content_length > 0;

	if (p->has_transfer_encoding && (!p->chunked || p->has_content_length || p->minor_version == 0))
		return REASON_RESPONSE_INVALID;
	/* The next head follows at once, or a body that nobody may send (RFC 9110 8.6, RFC 9112 6.1)? */
	if (p->status < 200 && body)
		return REASON_RESPONSE_INVALID;
	/* A protocol that was not asked for (RFC 9110 7.8): this one alone is ever passed on. */
	if (p->status == 101 && (!p->has_websocket || p->minor_version == 0))
		return REASON_RESPONSE_INVALID;
	return REASON_OK;
}

static const struct head_rules RESPONSE_RULES = { false, status_line_parse, RESPONSE_FIELDS, response_check };

/* RFC 9112 6.3. */
static struct framing framing_of(const struct head_parser *p, enum head_method method)
{
	if (p->status == 101)
		return (struct framing){ FRAMING_CLOSE, 0 };
	if (method == HEAD_HEAD || p->status < 200 || p->status == 204 || p->status == 304)
		return (struct framing){ FRAMING_NONE, 0 };
	if (p->chunked)
		return (struct framing){ FRAMING_CHUNKED, 0 };
	if (p->has_content_length)
		return (struct framing){ FRAMING_LENGTH, p->content_length };
	return (struct framing){ FRAMING_CLOSE, 0 };
}

static void response_fill(const struct response_parser *r, const char *buf, struct response_head *out)
{
	const struct head_parser *p = &r->head;
	/* A 204 that announces a body has none, but some who write so send one. */
	bool doubtful = p->status == 204 && (p->has_transfer_encoding || p->content_length > 0);

	*out = (struct response_head){
		.status = p->status,
		.minor_version = p->minor_version,
		.upgrade = p->status == 101,
		.framing = framing_of(p, r->method),
		.reason_phrase = head_slice(buf, p->reason_phrase),
		.fields = { buf + p->fields_from, p->at - 2 - p->fields_from },
		.head_bytes = p->at,
	};
	out->keep_alive = p->minor_version > 0 && !p->close && out->framing.kind != FRAMING_CLOSE && !doubtful;
}

void response_parser_init(struct response_parser *p, enum head_method method)
{
	head_init_rules(&p->head, &RESPONSE_RULES);
	p->method = method;
}

enum head_status response_parse(struct response_parser *p, const char *buf, size_t len,
				const struct head_limits *limits, struct response_head *out, enum reason *why)
{
	enum head_status status = head_run(&p->head, buf, len, limits);

	*why = REASON_OK;
	if (status == HEAD_DONE) {
		response_fill(p, buf, out);
	} else if (status == HEAD_BAD) {
		bool limit = p->head.why == REASON_URI_TOO_LONG || p->head.why == REASON_HEAD_TOO_LARGE ||
			     p->head.why == REASON_TOO_MANY_FIELDS;

		*out = (struct response_head){ 0 };
		*why = limit ? REASON_RESPONSE_TOO_LARGE : REASON_RESPONSE_INVALID;
	}
	return status;
}
