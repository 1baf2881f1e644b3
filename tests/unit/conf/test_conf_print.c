/* The three voices of the table: configuration, manual, command line. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static char *said(void (*print)(FILE *))
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	print(f);
	fclose(f);
	return text;
}

Test(conf_print, strings)
{
	static const struct {
		const char *text, *printed;
	} rows[] = {
		{ "adit", "adit" }, { "/etc/adit/x.crt", "/etc/adit/x.crt" }, { "off", "\"off\"" }, { "Null", "\"Null\"" },
		{ "YES", "\"YES\"" }, { "12", "\"12\"" }, { "1.2", "\"1.2\"" }, { "-", "\"-\"" }, { "a b", "\"a b\"" },
		{ "a: b", "\"a: b\"" }, { "#x", "\"#x\"" }, { "a\"b\\c", "\"a\\\"b\\\\c\"" }, { "", "\"\"" }, { "~", "\"~\"" },
		{ "*x", "\"*x\"" }, { "[x]", "\"[x]\"" }, { ".5", "\".5\"" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char *text = NULL;
		size_t size = 0;
		FILE *f = open_memstream(&text, &size);

		conf_print_string(rows[i].text, f);
		fclose(f);
		cr_assert_str_eq(text, rows[i].printed);
		free(text);
	}
}

/* Every key stands in the manual, and no line of it begins with a dot by accident. */
Test(conf_print, reference)
{
	static const char *const requests[] = { ".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".I", ".br", ".PP", ".nf", ".fi" };
	char *text = said(conf_print_reference), wanted[CONF_LABEL_SIZE + 8];
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		snprintf(wanted, sizeof(wanted), "%s %s\n", row->type == CONF_SECTION ? ".SS" : ".B", row->key);
		cr_assert_not_null(strstr(text, wanted), "%s", row->key);
	}
	for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		bool known = line[0] != '.' && line[0] != '\'';

		for (size_t i = 0; i < COUNT(requests) && !known; i++)
			known = strcspn(line, " \n") == strlen(requests[i]) && strncmp(line, requests[i], strlen(requests[i])) == 0;
		cr_assert(known, "%.40s", line);
	}
	cr_assert_not_null(strstr(text, ".BR adit (8)\n"));
	free(text);
}

Test(conf_print, options)
{
	char *text = said(conf_print_options);
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (row->option)
			cr_assert_not_null(strstr(text, row->option), "%s", row->option);
	for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		cr_assert_lt(strcspn(line, "\n"), 81, "%s", line);
	free(text);
}
