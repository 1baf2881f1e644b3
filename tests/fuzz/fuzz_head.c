/* Any bytes as the head of a request: the answer is the same however they are cut, and what is taken is well-formed. */
#include "adit/base/obj.h"
#include "adit/http/head.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_slice(struct slice s, const char *buf, size_t head_bytes)
{
	if (!s.p) {
		ADIT_ASSERT(s.n == 0);
		return;
	}
	ADIT_ASSERT(s.p >= buf && s.p + s.n <= buf + head_bytes);
	for (size_t i = 0; i < s.n; i++)
		ADIT_ASSERT(s.p[i] == '\t' || (unsigned char)s.p[i] >= ' ');
}

static void check_done(const struct head *h, const char *buf, size_t len, const struct head_limits *limits)
{
	struct head_field field;
	struct slice rest = h->fields;
	size_t fields = 0, hosts = 0;

	ADIT_ASSERT(h->head_bytes <= len && h->head_bytes <= limits->head_bytes && h->head_bytes >= 4);
	ADIT_ASSERT(memcmp(buf + h->head_bytes - 4, "\r\n\r\n", 4) == 0);
	/* Nobody else's reading of the bytes may find an earlier end. */
	ADIT_ASSERT(memmem(buf, h->head_bytes - 1, "\r\n\r\n", 4) == NULL && memmem(buf, h->head_bytes, "\n\n", 2) == NULL);
	check_slice(h->method_text, buf, h->head_bytes);
	check_slice(h->target, buf, h->head_bytes);
	check_slice(h->path, buf, h->head_bytes);
	check_slice(h->host, buf, h->head_bytes);
	check_slice(h->proxy_authorization, buf, h->head_bytes);
	ADIT_ASSERT((h->method == HEAD_CONNECT) == (h->form == HEAD_FORM_AUTHORITY));
	ADIT_ASSERT(h->has_authority == (h->form == HEAD_FORM_AUTHORITY || h->form == HEAD_FORM_ABSOLUTE));
	ADIT_ASSERT(!h->has_authority || (h->authority.port > 0 && h->authority.host.text[0] != '\0'));
	ADIT_ASSERT(h->has_host || h->minor_version == 0);
	if (h->method == HEAD_CONNECT)
		ADIT_ASSERT(!h->chunked && h->content_length == 0 && (!h->has_host || h->host.n > 0));
	ADIT_ASSERT(!(h->chunked && h->has_content_length));
	while (head_next_field(&rest, &field)) {
		fields++;
		check_slice(field.name, buf, h->head_bytes);
		check_slice(field.value, buf, h->head_bytes);
		ADIT_ASSERT(field.name.n > 0 && !memchr(field.name.p, ' ', field.name.n));
		hosts += slice_ieq(field.name, slice_of("host"));
	}
	ADIT_ASSERT(rest.n == 0 && fields == h->field_count && fields <= limits->fields);
	ADIT_ASSERT(hosts == h->has_host);
}

static bool slice_same(struct slice a, const char *a_buf, struct slice b, const char *b_buf)
{
	return a.n == b.n && (a.p ? a.p - a_buf : -1) == (b.p ? b.p - b_buf : -1);
}

static void check_same(const struct head *a, const char *a_buf, const struct head *b, const char *b_buf)
{
	ADIT_ASSERT(slice_same(a->method_text, a_buf, b->method_text, b_buf));
	ADIT_ASSERT(slice_same(a->target, a_buf, b->target, b_buf));
	ADIT_ASSERT(slice_same(a->path, a_buf, b->path, b_buf));
	ADIT_ASSERT(slice_same(a->host, a_buf, b->host, b_buf));
	ADIT_ASSERT(slice_same(a->proxy_authorization, a_buf, b->proxy_authorization, b_buf));
	ADIT_ASSERT(slice_same(a->fields, a_buf, b->fields, b_buf));
	ADIT_ASSERT(a->method == b->method && a->form == b->form && a->minor_version == b->minor_version);
	ADIT_ASSERT(a->has_authority == b->has_authority && a->authority.port == b->authority.port);
	ADIT_ASSERT(strcmp(a->authority.host.text, b->authority.host.text) == 0);
	ADIT_ASSERT(a->keep_alive == b->keep_alive && a->content_length == b->content_length);
	ADIT_ASSERT(a->chunked == b->chunked && a->expect_continue == b->expect_continue);
	ADIT_ASSERT(a->head_bytes == b->head_bytes && a->field_count == b->field_count);
}

/* A copy that ends where the sanitizer sees a byte read too far. */
static char *copy_of(const uint8_t *data, size_t n)
{
	char *copy = malloc(n ? n : 1);

	if (!copy)
		abort();
	if (n > 0)
		memcpy(copy, data, n);
	return copy;
}

static void run(const uint8_t *data, size_t size, const struct head_limits *limits)
{
	char *whole_buf = copy_of(data, size);
	struct head_parser p;
	struct head whole, parts;
	enum reason whole_why, why;
	enum head_status status, part_status = HEAD_PARTIAL;
	unsigned seed = (unsigned)size * 2654435761u + 1;

	head_init(&p);
	status = head_parse(&p, whole_buf, size, limits, &whole, &whole_why);
	ADIT_ASSERT((status == HEAD_BAD) == (whole_why != REASON_OK));
	ADIT_ASSERT(status != HEAD_PARTIAL || size < limits->head_bytes);
	if (status == HEAD_DONE)
		check_done(&whole, whole_buf, size, limits);

	head_init(&p);
	for (size_t at = 0;;) {
		char *buf = copy_of(data, at);

		part_status = head_parse(&p, buf, at, limits, &parts, &why);
		if (part_status != HEAD_PARTIAL || at == size) {
			ADIT_ASSERT(part_status == status && why == whole_why);
			if (status != HEAD_PARTIAL)
				check_same(&whole, whole_buf, &parts, buf);
			free(buf);
			break;
		}
		free(buf);
		seed = seed * 1103515245u + 12345u + data[at];
		at += 1 + (seed >> 16) % 7;
		at = at < size ? at : size;
	}
	free(whole_buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct head_limits WIDE = { 8192, 32768, 100 }, NARROW = { 40, 120, 3 };

	run(data, size, &WIDE);
	run(data, size, &NARROW);
	return 0;
}
