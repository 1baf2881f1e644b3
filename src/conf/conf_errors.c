/* The faults of one load, kept as complete lines. Bounded, for the file is a stranger's until it has been read. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"

#include <stdarg.h>

enum { LINE_MAX_BYTES = 2048 };

void conf_errors_add(struct conf_errors *e, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	char **grown, *text;
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (e->count >= CONF_ERRORS_MAX) {
		e->left_out++;
		return;
	}
	text = mem_strdup(line);
	grown = text ? mem_resize(e->text, e->count + 1, sizeof(*grown)) : NULL;
	if (!grown) {
		mem_free(text);
		e->left_out++;
		return;
	}
	e->text = grown;
	e->text[e->count++] = text;
}

void conf_errors_print(const struct conf_errors *e, FILE *to)
{
	for (size_t i = 0; i < e->count; i++)
		fprintf(to, "%s\n", e->text[i]);
	if (e->left_out > 0 && e->count > 0)
		fprintf(to, "and %zu more\n", e->left_out);
	else if (e->left_out > 0)
		fprintf(to, "out of memory\n");
}

void conf_errors_free(struct conf_errors *e)
{
	for (size_t i = 0; i < e->count; i++)
		mem_free(e->text[i]);
	mem_free(e->text);
	*e = (struct conf_errors){ .text = NULL };
}
