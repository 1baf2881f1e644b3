/* The body of a message: decoded in place, encoded piece by piece.
 *
 *     IN_SIZE -> IN_EXTENSION -> IN_DATA -> BEHIND_DATA -> IN_SIZE ... IN_TRAILERS -> IS_DONE
 *
 * What is hard is that whoever reads the same bytes after us (or before us) must see the same end. So a chunk has one
 * spelling (RFC 9112 7.1): digits, at once ';' or CRLF; the data; CRLF. No white space, no sign, no bare LF. */
#include "adit/http/body.h"

#include "adit/base/mem.h"
#include "http/head_priv.h"

enum {
	IN_SIZE,
	IN_EXTENSION,
	IN_DATA, /* and all of a body that is not chunked */
	BEHIND_DATA, /* the CRLF that ends a chunk */
	IN_TRAILERS,
	IS_DONE,
	IS_BAD
};

enum {
	SIZE_DIGITS_MAX = 16,
	SIZE_LINE_MAX = 256, /* with extensions, without CRLF: many bytes for few of the body are an attack */
	TRAILERS_LEAST = 256
};

void body_reader_init(struct body_reader *b, struct framing framing, size_t trailers_max)
{
	*b = (struct body_reader){
		.framing = framing, .state = IN_DATA, .why = REASON_OK, .trailers_max = trailers_max,
	};
	if (framing.kind == FRAMING_LENGTH)
		b->left = framing.length;
	if (framing.kind == FRAMING_CHUNKED)
		b->state = IN_SIZE;
	else if (framing.kind != FRAMING_CLOSE && b->left == 0)
		b->state = IS_DONE;
}

void body_reader_fini(struct body_reader *b)
{
	mem_burn(b->trailers, b->trailers_n); /* whatever a client puts there */
	mem_free(b->trailers);
	b->trailers = NULL;
	b->trailers_n = b->trailers_size = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum reason take_digit(struct body_reader *b, int digit)
{
	if (b->line++ == SIZE_DIGITS_MAX)
		return REASON_BAD_CHUNK;
	b->left = b->left << 4 | (unsigned)digit;
	return REASON_OK;
}

/* The line with the size of a chunk. */
static enum reason take_size(struct body_reader *b, char c)
{
	bool in_digits = b->state == IN_SIZE && !b->after_cr, ends;
	int digit = in_digits ? hex_digit(c) : -1;

	if (digit >= 0)
		return take_digit(b, digit);
	if (in_digits && (b->line == 0 || (c != ';' && c != '\r')))
		return REASON_BAD_CHUNK;
	if (head_byte(c, false, &b->after_cr, &ends) != REASON_OK)
		return REASON_BAD_CHUNK;
	if (ends) {
		b->state = b->left > 0 ? IN_DATA : IN_TRAILERS;
		b->line = 0;
	} else if (!b->after_cr) {
		b->state = IN_EXTENSION;
		if (b->line++ == SIZE_LINE_MAX)
			return REASON_BAD_CHUNK;
	}
	return REASON_OK;
}

static enum reason take_behind_data(struct body_reader *b, char c)
{
	bool ends;

	if ((!b->after_cr && c != '\r') || head_byte(c, false, &b->after_cr, &ends) != REASON_OK)
		return REASON_BAD_CHUNK;
	if (ends)
		b->state = IN_SIZE; /* left and line are 0 */
	return REASON_OK;
}

static enum reason keep_trailer_byte(struct body_reader *b, char c)
{
	if (b->trailers_n == b->trailers_max)
		return REASON_BAD_CHUNK;
	if (b->trailers_n == b->trailers_size) {
		size_t size = b->trailers_size > 0 ? 2 * b->trailers_size : TRAILERS_LEAST;
		char *trailers;

		size = size < b->trailers_max ? size : b->trailers_max;
		trailers = mem_alloc(size); /* not mem_resize, which would leave a copy behind */
		if (!trailers)
			return REASON_NO_MEMORY;
		if (b->trailers_n > 0)
			memcpy(trailers, b->trailers, b->trailers_n);
		mem_burn(b->trailers, b->trailers_n);
		mem_free(b->trailers);
		b->trailers = trailers;
		b->trailers_size = size;
	}
	b->trailers[b->trailers_n++] = c;
	return REASON_OK;
}

/* Field lines are kept with their CRLF; the empty line that ends them is not. */
static enum reason take_trailer(struct body_reader *b, char c)
{
	bool first = b->line == 0 && !b->after_cr, empty = b->line == 0 && (b->after_cr || c == '\r'), ends;
	struct head_field field;
	enum reason why;

	if (head_byte(c, first, &b->after_cr, &ends) != REASON_OK)
		return REASON_BAD_CHUNK;
	if (empty) {
		if (ends)
			b->state = IS_DONE;
		return REASON_OK;
	}
	why = keep_trailer_byte(b, c);
	if (why != REASON_OK)
		return why;
	if (ends) {
		if (!head_field_split((struct slice){ b->trailers + b->trailers_n - b->line - 2, b->line }, &field))
			return REASON_BAD_CHUNK;
		b->line = 0;
	} else if (!b->after_cr) {
		b->line++;
	}
	return REASON_OK;
}

static enum reason take_byte(struct body_reader *b, char c)
{
	if (b->state == BEHIND_DATA)
		return take_behind_data(b, c);
	return b->state == IN_TRAILERS ? take_trailer(b, c) : take_size(b, c);
}

/* So many of n bytes are the body's. */
static size_t take_data(struct body_reader *b, size_t n)
{
	if (b->framing.kind == FRAMING_CLOSE)
		return n;
	if (n > b->left)
		n = (size_t)b->left;
	b->left -= n;
	if (b->left == 0)
		b->state = b->framing.kind == FRAMING_CHUNKED ? BEHIND_DATA : IS_DONE;
	return n;
}

enum body_status body_decode(struct body_reader *b, char *buf, size_t n, size_t *data, size_t *rest,
			     enum reason *why)
{
	size_t at = 0;

	*data = 0;
	while (at < n && b->state != IS_DONE && b->state != IS_BAD) {
		if (b->state == IN_DATA) {
			size_t run = take_data(b, n - at);

			if (at != *data)
				memmove(buf + *data, buf + at, run);
			*data += run;
			at += run;
		} else {
			b->why = take_byte(b, buf[at++]);
			if (b->why != REASON_OK)
				b->state = IS_BAD;
		}
	}
	*rest = at;
	*why = b->why;
	if (b->state == IS_DONE)
		return BODY_DONE;
	return b->state == IS_BAD ? BODY_BAD : BODY_GOES_ON;
}

enum body_status body_end(const struct body_reader *b)
{
	bool open_ended = b->framing.kind == FRAMING_CLOSE && b->state == IN_DATA;

	return b->state == IS_DONE || open_ended ? BODY_DONE : BODY_BAD;
}

struct slice body_trailers(const struct body_reader *b)
{
	return (struct slice){ b->trailers, b->state == IS_DONE ? b->trailers_n : 0 };
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

void body_writer_init(struct body_writer *b, struct framing framing)
{
	*b = (struct body_writer){ .framing = framing, .left = framing.length };
}

static size_t write_size(size_t n, char out[static BODY_PREFIX_MAX])
{
	size_t digits = 1, at;

	while (digits < SIZE_DIGITS_MAX && n >> (4 * digits) > 0)
		digits++;
	for (at = 0; at < digits; at++)
		out[at] = "0123456789abcdef"[n >> (4 * (digits - 1 - at)) & 0xf];
	out[at++] = '\r';
	out[at++] = '\n';
	return at;
}

bool body_encode(struct body_writer *b, size_t n, char prefix[static BODY_PREFIX_MAX], size_t *prefix_n,
		 struct slice *suffix)
{
	*prefix_n = 0;
	*suffix = (struct slice){ 0 };
	ADIT_ASSERT(n > 0); /* an empty chunk would be the last one */
	switch (b->framing.kind) {
	case FRAMING_NONE:
		return false;
	case FRAMING_LENGTH:
		if (n > b->left)
			return false;
		b->left -= n;
		return true;
	case FRAMING_CHUNKED:
		*prefix_n = write_size(n, prefix);
		*suffix = slice_of("\r\n");
		return true;
	case FRAMING_CLOSE:
		return true;
	}
	return false;
}

bool body_finish(const struct body_writer *b, struct slice *last, struct slice *behind)
{
	bool chunked = b->framing.kind == FRAMING_CHUNKED;

	*last = chunked ? slice_of("0\r\n") : (struct slice){ 0 };
	*behind = chunked ? slice_of("\r\n") : (struct slice){ 0 };
	return b->framing.kind != FRAMING_LENGTH || b->left == 0;
}
