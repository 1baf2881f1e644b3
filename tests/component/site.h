/* A proxy in one thread, for tests of whole requests: HTTP/1 over a stream in memory, real authentication, policy, DNS,
 * dialling, idle connections and audit, targets on loopback, and a clock that the test turns. */
#ifndef ADIT_TESTS_SITE_H
#define ADIT_TESTS_SITE_H

#include "adit/http/h1.h"
#include "adit/tunnel/tunnel.h"
#include "component/mem_stream.h"
#include "component/turning.h"
#include "unit/dns/nameserver.h"

#define ALICE "YWxpY2U6c2VjcmV0" /* alice:secret */
#define ALICE_WRONG "YWxpY2U6d3Jvbmc="
#define BOB "Ym9iOnNlY3JldA==" /* bob:secret */
#define SLOW "c2xvdzpzZWNyZXQ=" /* slow:secret, whose hash takes its time */
#define OWN "127.0.0.1:18443"

extern struct loop *loop;
extern struct conf *conf;
extern struct tunnel_env env;
extern struct nameserver *ns;
extern int target; /* a listener */
extern uint16_t target_port;

void site_setup(void); /* for TestSuite */
void open_site(const struct conf_option *extra, size_t extra_n);
void close_site(void); /* with the leak gate */
void on_bad_user(void *ctx, unsigned line, const char *message);
int listen_here(uint16_t *port, int backlog);
const char *target_at(const char *host); /* "host:port" of the listener; until the next call */

/* The client of the moment. */
extern struct client client;
extern struct mem_stream *m;
extern struct h1 *h;
extern unsigned logins;

bool connect_client(void);
void drop_client(void);
void say_connect(const char *to, const char *credentials);
bool has(const char *text); /* in what the client has got */
void expect_refusal(enum reason reason);

/* The records. */
extern char records[65536];
void read_records(const char *name); /* appends a file */
unsigned count(const char *text);
void stop_audit(void);
void take_records(void); /* stops the audit and takes everything that was recorded */
void expect_last(const char *kind, enum reason reason);

#endif
