/* The snapshot: made from a file, options and defaults in this order of weight - options over the file over the
 * defaults -, checked as a whole, then never changed.
 *
 * Scalars get their defaults first and are overwritten; a list gets its default last, when nobody has given it. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#define CONF_MAGIC OBJ_MAGIC('C', 'O', 'N', 'F')

enum { WORKERS_MAX = 256 };

static bool lists_default(struct conf_load *load)
{
	struct conf_load standard = { .conf = load->conf, .errors = load->errors, .name = "default" };
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (row->type == CONF_LIST && row->standard && !load->given[i] && !strstr(row->key, "[]") &&
			!conf_yaml_value(&standard, row, slice_of(row->standard)))
			return false;
	return true;
}

/* A fault of an item that is known by its place alone. */
static void item_fault(struct conf_load *load, struct conf_where where, const char *list, size_t i, const char *why)
{
	if (where.line > 0)
		conf_errors_add(load->errors, "%s:%u:%u: %s[%zu]: %s", load->name, where.line, where.column, list, i + 1, why);
	else
		conf_errors_add(load->errors, "%s[%zu]: %s", list, i + 1, why);
}

static void check_listen(struct conf_load *load)
{
	const struct conf_listen *listen = load->conf->listen;
	char text[ADDR_TEXT_SIZE], why[CONF_WHY_SIZE];

	for (size_t i = 0; i < load->conf->listen_count; i++) {
		for (size_t j = 0; j < i; j++) {
			const struct addr *a = &listen[j].address, *b = &listen[i].address;

			if (!addr_overlaps(a, b))
				continue;
			if (addr_equal(a, b))
				snprintf(why, sizeof(why), "%s is listened on already by entry %zu; leave one of them out",
					addr_text(b, text), j + 1);
			else
				snprintf(why, sizeof(why), "%s overlaps entry %zu: 0.0.0.0 takes all of IPv4, and [::] all addresses; "
					"leave one of them out", addr_text(b, text), j + 1);
			item_fault(load, listen[i].where, "listen", i, why);
			break;
		}
	}
}

static bool name_rules(struct conf_load *load)
{
	struct conf_rule *rules = load->conf->policy.rules;
	char name[32], why[CONF_WHY_SIZE];

	for (size_t i = 0; i < load->conf->policy.rule_count; i++) {
		if (rules[i].name)
			continue;
		snprintf(name, sizeof(name), "rule-%zu", i + 1);
		if (!(rules[i].name = mem_strdup(name)))
			return false;
	}
	for (size_t i = 1; i < load->conf->policy.rule_count; i++) {
		for (size_t j = 0; j < i; j++) {
			if (strcmp(rules[i].name, rules[j].name) != 0)
				continue;
			snprintf(why, sizeof(why), "the name %s is rule %zu's; each rule needs one of its own", rules[i].name,
				j + 1);
			item_fault(load, rules[i].where, "policy.rules", i, why);
			break;
		}
	}
	return true;
}

static bool key_certificates(struct conf *conf)
{
	struct conf_certificate *c = conf->tls.certificates;

	for (size_t i = 0; i < conf->tls.certificate_count; i++)
		if (!c[i].key && c[i].chain && !(c[i].key = mem_strdup(c[i].chain)))
			return false;
	return true;
}

/* The host's name as far as it can stand in a record. */
static bool name_node(struct conf *conf)
{
	char name[256] = "";

	if (conf->audit.node)
		return true;
	if (gethostname(name, sizeof(name) - 1) != 0 || !name[0])
		memcpy(name, "localhost", sizeof("localhost"));
	name[253] = '\0';
	for (char *p = name; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("._-", *p)))
			*p = '-';
	return (conf->audit.node = mem_strdup(name)) != NULL;
}

static unsigned cores(void)
{
	cpu_set_t set;
	int n;

	/* more cores than a cpu_set_t holds are more than WORKERS_MAX */
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return errno == EINVAL ? WORKERS_MAX : 1;
	n = CPU_COUNT(&set);
	return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
}

static bool finish(struct conf_load *load)
{
	struct conf *conf = load->conf;

	if (!lists_default(load) || !name_rules(load) || !key_certificates(conf) || !name_node(conf))
		return false;
	check_listen(load);
	if (conf->http.head_bytes < conf->http.request_line_bytes)
		conf_errors_add(load->errors, "%s: http.head: is %zu bytes, less than the %zu of http.request_line",
			load->name, conf->http.head_bytes, conf->http.request_line_bytes);
	if (conf->workers == 0)
		conf->workers = cores();
	return true;
}

static struct conf *conf_new(const char *path)
{
	struct conf *conf = mem_alloc(sizeof(*conf));

	if (!conf)
		return NULL;
	OBJ_INIT(conf, CONF_MAGIC);
	atomic_init(&conf->refs, 1);
	if ((path && !(conf->path = mem_strdup(path))) || !conf_list_defaults(slice_of(""), conf)) {
		conf_unref(conf);
		return NULL;
	}
	return conf;
}

struct conf *conf_parse_text(const char *name, struct slice text, const struct conf_option *options,
	size_t option_count, struct conf_errors *errors)
{
	struct conf_load load = { .conf = conf_new(text.p ? name : NULL), .errors = errors, .name = name };

	if (!load.conf) {
		conf_errors_add(errors, "%s: out of memory", name);
		return NULL;
	}
	if (text.p)
		(void)conf_yaml_text(&load, text);
	conf_options_apply(&load, options, option_count);
	/* what the whole lacks is said only when its parts are right: otherwise it would often be said of the same
	 * fault */
	if (!conf_failed(errors) && !finish(&load))
		conf_errors_add(errors, "%s: out of memory", name);
	if (!conf_failed(errors))
		return load.conf;
	conf_unref(load.conf);
	return NULL;
}

/* The file's bytes, NUL-terminated; NULL after a line in errors. */
static char *read_file(const char *path, size_t *size, struct conf_errors *errors)
{
	char *text = mem_alloc(CONF_FILE_MAX_BYTES + 2);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0;

	*size = 0;
	if (!text || fd < 0) {
		conf_errors_add(errors, "%s: cannot be read: %s", path, fd < 0 ? strerror(errno) : "out of memory");
		goto fail;
	}
	while (*size <= CONF_FILE_MAX_BYTES && (n = read(fd, text + *size, CONF_FILE_MAX_BYTES + 1 - *size)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			conf_errors_add(errors, "%s: cannot be read: %s", path, strerror(errno));
			goto fail;
		}
		*size += (size_t)n;
	}
	if (*size > CONF_FILE_MAX_BYTES) {
		conf_errors_add(errors, "%s: is larger than %d bytes, the most that is read", path, CONF_FILE_MAX_BYTES);
		goto fail;
	}
	close(fd);
	return text;
fail:
	if (fd >= 0)
		close(fd);
	mem_free(text);
	return NULL;
}

struct conf *conf_load(const char *path, const struct conf_option *options, size_t option_count,
	struct conf_errors *errors)
{
	struct slice text = { NULL, 0 };
	struct conf *conf;
	char *bytes;

	if (!path)
		return conf_parse_text("options", text, options, option_count, errors);
	if (!(bytes = read_file(path, &text.n, errors)))
		return NULL;
	text.p = bytes;
	conf = conf_parse_text(path, text, options, option_count, errors);
	mem_free(bytes);
	return conf;
}

struct conf *conf_ref(struct conf *conf)
{
	OBJ_CHECK(conf, CONF_MAGIC);
	atomic_fetch_add_explicit(&conf->refs, 1, memory_order_relaxed);
	return conf;
}

void conf_unref(struct conf *conf)
{
	if (!conf)
		return;
	OBJ_CHECK(conf, CONF_MAGIC);
	if (atomic_fetch_sub_explicit(&conf->refs, 1, memory_order_acq_rel) > 1)
		return;
	conf_list_fini(slice_of(""), conf);
	mem_free(conf->path);
	OBJ_FINI(conf);
	mem_free(conf);
}

bool conf_complete(const struct conf *conf, struct conf_errors *errors)
{
	const char *name = conf->path ? conf->path : "options";
	bool complete = true;

	if (conf->tls.certificate_count == 0) {
		conf_errors_add(errors, "%s: tls.certificates: is missing; give a certificate and its key there, or with "
			"--cert and --key", name);
		complete = false;
	}
	if (!conf->auth.htpasswd) {
		conf_errors_add(errors, "%s: auth.htpasswd: is missing; give the file of users there, or with --htpasswd "
			"(adit passwd FILE USER makes one)", name);
		complete = false;
	}
	return complete;
}

bool conf_reloadable(const struct conf *running, const struct conf *fresh, struct conf_errors *notes)
{
	char was[CONF_TEXT_SIZE], now[CONF_TEXT_SIZE];
	const struct conf_row *row;
	bool all = true;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		const char *a, *b;

		if (!(row->flags & CONF_RESTART) || strstr(row->key, "[]") || conf_types_equal(row, running, fresh))
			continue;
		a = conf_types_text(row, running, was);
		b = conf_types_text(row, fresh, now);
		conf_errors_add(notes, "%s: stays %s until a restart (the configuration says %s)", row->key, a ? a : "unset",
			b ? b : "nothing");
		all = false;
	}
	return all;
}
