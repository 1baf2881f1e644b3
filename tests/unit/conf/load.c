/* The harness of the configuration's tests: loads that must succeed or must not, with what they said. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static char *printed_errors(struct conf_errors *errors)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	conf_errors_print(errors, f);
	fclose(f);
	conf_errors_free(errors);
	return text;
}

static struct conf *good(struct slice text, const struct conf_option *options, size_t count)
{
	struct conf_errors errors = { .text = NULL };
	struct conf *conf = conf_parse_text("t.yaml", text, options, count, &errors);
	char *messages = printed_errors(&errors);

	cr_assert_not_null(conf, "%s\n%s", text.p ? text.p : "", messages);
	cr_assert_str_eq(messages, "");
	free(messages);
	return conf;
}

static char *bad(struct slice text, const struct conf_option *options, size_t count)
{
	struct conf_errors errors = { .text = NULL };
	struct conf *conf = conf_parse_text("t.yaml", text, options, count, &errors);

	cr_assert_null(conf, "loads: %s", text.p ? text.p : "");
	cr_assert(conf_failed(&errors));
	return printed_errors(&errors);
}

struct conf *load_good(const char *text)
{
	return good(slice_of(text), NULL, 0);
}

struct conf *load_options(const struct conf_option *options, size_t count)
{
	return good((struct slice){ NULL, 0 }, options, count);
}

char *load_bad(const char *text)
{
	return bad(slice_of(text), NULL, 0);
}

char *load_bad_options(const struct conf_option *options, size_t count)
{
	return bad((struct slice){ NULL, 0 }, options, count);
}

char *load_printed(const struct conf *conf)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	conf_print(conf, f);
	fclose(f);
	return text;
}

char *load_file(const char *path)
{
	const char *root = getenv("ADIT_SRCDIR");
	char whole[4096], *text;
	size_t n;
	FILE *f;

	snprintf(whole, sizeof(whole), "%s/%s", root ? root : ".", path);
	cr_assert_not_null(f = fopen(whole, "r"), "%s", whole);
	cr_assert_not_null(text = malloc(65536));
	n = fread(text, 1, 65535, f);
	text[n] = '\0';
	fclose(f);
	return text;
}
