/* Any bytes as the head of a response: the answer is the same however they are cut, what is taken is well-formed, and
 * where its body ends leaves no room for a second reading. The first byte says which method asked. */
#include "adit/base/obj.h"
#include "adit/http/forward.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_slice(struct slice s, const char *buf, size_t head_bytes)
{
	ADIT_ASSERT(s.p >= buf && s.p + s.n <= buf + head_bytes);
	for (size_t i = 0; i < s.n; i++)
		ADIT_ASSERT(s.p[i] == '\t' || (unsigned char)s.p[i] >= ' ');
}

/* What another reader would go by, read out of the fields anew. */
struct framing_fields {
	size_t fields, lengths, codings;
	bool chunked;
	unsigned long long length;
};

static struct framing_fields read_fields(const struct response_head *h, const char *buf)
{
	struct framing_fields f = { 0 };
	struct slice rest = h->fields;
	struct head_field field;

	while (head_next_field(&rest, &field)) {
		f.fields++;
		check_slice(field.name, buf, h->head_bytes);
		check_slice(field.value, buf, h->head_bytes);
		ADIT_ASSERT(field.name.n > 0 && !memchr(field.name.p, ' ', field.name.n));
		if (slice_ieq(field.name, slice_of("content-length"))) {
			unsigned long long length;

			ADIT_ASSERT(slice_to_u64(field.value, ~0ull, &length));
			ADIT_ASSERT(f.lengths++ == 0 || f.length == length);
			f.length = length;
		} else if (slice_ieq(field.name, slice_of("transfer-encoding"))) {
			f.codings++;
			f.chunked = slice_ieq(field.value, slice_of("chunked"));
		}
	}
	ADIT_ASSERT(rest.n == 0);
	return f;
}

static void check_framing(const struct response_head *h, enum head_method method, const struct framing_fields *f)
{
	bool bodiless = h->status < 200 || h->status == 204 || h->status == 304 || method == HEAD_HEAD;

	ADIT_ASSERT(f->codings == 0 || (f->codings == 1 && f->chunked && f->lengths == 0 && h->minor_version == 1));
	ADIT_ASSERT(h->status >= 200 || (f->codings == 0 && f->length == 0));
	if (h->status == 101)
		ADIT_ASSERT(h->framing.kind == FRAMING_CLOSE);
	else if (bodiless)
		ADIT_ASSERT(h->framing.kind == FRAMING_NONE);
	else if (f->codings > 0)
		ADIT_ASSERT(h->framing.kind == FRAMING_CHUNKED);
	else if (f->lengths > 0)
		ADIT_ASSERT(h->framing.kind == FRAMING_LENGTH && h->framing.length == f->length);
	else
		ADIT_ASSERT(h->framing.kind == FRAMING_CLOSE);
	ADIT_ASSERT(!h->keep_alive || (h->minor_version == 1 && h->framing.kind != FRAMING_CLOSE));
	ADIT_ASSERT(!h->keep_alive || h->status != 204 || (f->codings == 0 && f->length == 0));
}

static void check_done(const struct response_head *h, const char *buf, size_t len, const struct head_limits *limits,
		       enum head_method method)
{
	struct framing_fields f = read_fields(h, buf);

	ADIT_ASSERT(h->head_bytes <= len && h->head_bytes <= limits->head_bytes && f.fields <= limits->fields);
	ADIT_ASSERT(memcmp(buf, "HTTP/1.", 7) == 0 && memcmp(buf + h->head_bytes - 4, "\r\n\r\n", 4) == 0);
	/* Nobody else's reading of the bytes may find an earlier end. */
	ADIT_ASSERT(memmem(buf, h->head_bytes - 1, "\r\n\r\n", 4) == NULL && memmem(buf, h->head_bytes, "\n\n", 2) == NULL);
	ADIT_ASSERT(h->status >= 100 && h->status <= 599 && h->minor_version <= 1);
	ADIT_ASSERT(h->upgrade == (h->status == 101));
	check_slice(h->reason_phrase, buf, h->head_bytes);
	check_framing(h, method, &f);
}

static bool slice_same(struct slice a, const char *a_buf, struct slice b, const char *b_buf)
{
	return a.n == b.n && (a.p ? a.p - a_buf : -1) == (b.p ? b.p - b_buf : -1);
}

static void check_same(const struct response_head *a, const char *a_buf, const struct response_head *b,
		       const char *b_buf)
{
	ADIT_ASSERT(a->status == b->status && a->minor_version == b->minor_version && a->keep_alive == b->keep_alive);
	ADIT_ASSERT(a->upgrade == b->upgrade && a->head_bytes == b->head_bytes);
	ADIT_ASSERT(a->framing.kind == b->framing.kind && a->framing.length == b->framing.length);
	ADIT_ASSERT(slice_same(a->reason_phrase, a_buf, b->reason_phrase, b_buf));
	ADIT_ASSERT(slice_same(a->fields, a_buf, b->fields, b_buf));
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

static void run(const uint8_t *data, size_t size, enum head_method method, const struct head_limits *limits)
{
	char *whole_buf = copy_of(data, size);
	struct response_parser p;
	struct response_head whole, parts;
	enum reason whole_why, why;
	enum head_status status, part_status;
	unsigned seed = (unsigned)size * 2654435761u + 1;

	response_parser_init(&p, method);
	status = response_parse(&p, whole_buf, size, limits, &whole, &whole_why);
	ADIT_ASSERT((status == HEAD_BAD) == (whole_why != REASON_OK));
	ADIT_ASSERT(status != HEAD_BAD || whole_why == REASON_RESPONSE_INVALID || whole_why == REASON_RESPONSE_TOO_LARGE);
	ADIT_ASSERT(status != HEAD_PARTIAL || size < limits->head_bytes);
	if (status == HEAD_DONE)
		check_done(&whole, whole_buf, size, limits, method);

	response_parser_init(&p, method);
	for (size_t at = 0;;) {
		char *buf = copy_of(data, at);

		part_status = response_parse(&p, buf, at, limits, &parts, &why);
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
	enum head_method method;

	if (size == 0)
		return 0;
	method = data[0] == 'H' ? HEAD_HEAD : HEAD_GET;
	run(data + 1, size - 1, method, &WIDE);
	run(data + 1, size - 1, method, &NARROW);
	return 0;
}
