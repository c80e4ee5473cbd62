/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_x509.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/rpc_tls.h"

DEFINE_CLEANUP(BIO *, BIO_free_all)
DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)
DEFINE_CLEANUP(X509_STORE *, X509_STORE_free)
DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free)
DEFINE_CLEANUP(struct rpc_identity *, rpc_identity_free)

typedef STACK_OF(X509) x509_stack;

static void x509_stack_free(x509_stack *stack)
{
	sk_X509_pop_free(stack, X509_free);
}

DEFINE_CLEANUP(x509_stack *, x509_stack_free)

#define refuse(why, size, ...) (snprintf(why, size, __VA_ARGS__), -EINVAL)

/* Every certificate of a file, in order. */
static x509_stack *certificates_read(const char *pem)
{
	_cleanup_(BIO_free_all_p)
	BIO *bio = BIO_new_mem_buf(pem, -1);
	x509_stack *stack = sk_X509_new_null();
	X509 *cert;

	while (bio && stack && (cert = PEM_read_bio_X509(bio, NULL, NULL, (void *)""))) {
		if (!sk_X509_push(stack, cert)) {
			X509_free(cert);
			break;
		}
	}
	return stack;
}

static int no_passphrase(char *buffer, int size, int writing, void *userdata)
{
	*(bool *)userdata = true;
	return -1;
}

static int key_check(const struct rpc_x509_pair *pair, X509 *cert, char *why, size_t size)
{
	_cleanup_(BIO_free_all_p)
	BIO *bio = BIO_new_mem_buf(pair->key, -1);
	bool encrypted = false;
	_cleanup_(EVP_PKEY_free_p)
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &encrypted) : NULL;

	if (encrypted)
		return refuse(why, size, "key %s has a passphrase: give one without",
			      pair->key_path);
	if (!key)
		return refuse(why, size, "key %s holds no private key in PEM", pair->key_path);
	if (X509_check_private_key(cert, key) != 1)
		return refuse(why, size, "key %s does not belong to the certificate %s",
			      pair->key_path, pair->cert_path);
	return 0;
}

static int64_t time_of(const ASN1_TIME *time)
{
	struct tm tm;

	return ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void time_text(const ASN1_TIME *time, char text[32])
{
	struct tm tm = { 0 };

	ASN1_TIME_to_tm(time, &tm);
	strftime(text, 32, "%Y-%m-%d %H:%M:%S UTC", &tm);
}

/* What X509_verify_cert() has against a certificate of the chain. */
static int verify_refuse(const struct rpc_x509_pair *pair, X509_STORE_CTX *ctx, char *why,
			 size_t size)
{
	int error = X509_STORE_CTX_get_error(ctx);
	bool above = X509_STORE_CTX_get_error_depth(ctx) > 0;
	const X509 *at = X509_STORE_CTX_get_current_cert(ctx);
	const char *path = above ? pair->cacert_path : pair->cert_path;
	const char *name = above ? "cacert" : "cert";
	char when[32] = "";

	switch (error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		time_text(X509_get0_notAfter(at), when);
		return refuse(why, size, "%s %s has expired (%s): give a new one", name, path,
			      when);
	case X509_V_ERR_CERT_NOT_YET_VALID:
		time_text(X509_get0_notBefore(at), when);
		return refuse(why, size,
			      "%s %s is not valid before %s: is this machine's clock right?", name,
			      path, when);
	case X509_V_ERR_INVALID_PURPOSE:
		return refuse(why, size, "cert %s is not for a TLS %s (its extended key usage)",
			      pair->cert_path, pair->server ? "server" : "client");
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
		return refuse(why, size, "cert %s is not signed by an authority in cacert %s",
			      pair->cert_path, pair->cacert_path);
	default:
		return refuse(why, size, "cert %s cannot be used: %s", pair->cert_path,
			      X509_verify_cert_error_string(error));
	}
}

static int chain_check(const struct rpc_x509_pair *pair, x509_stack *authorities, x509_stack *chain,
		       char *why, size_t size)
{
	_cleanup_(X509_STORE_free_p)
	X509_STORE *store = X509_STORE_new();
	_cleanup_(X509_STORE_CTX_free_p)
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();

	for (int i = 0; store && i < sk_X509_num(authorities); i++)
		X509_STORE_add_cert(store, sk_X509_value(authorities, i));
	if (!store || !ctx || !X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain) ||
	    !X509_STORE_CTX_set_purpose(ctx, pair->server ? X509_PURPOSE_SSL_SERVER
							  : X509_PURPOSE_SSL_CLIENT))
		return refuse(why, size, "out of memory");
	if (X509_verify_cert(ctx) == 1)
		return 0;
	return verify_refuse(pair, ctx, why, size);
}

static int pair_check(const struct rpc_x509_pair *pair, int64_t *ret_not_after_s, char *why,
		      size_t size)
{
	_cleanup_(x509_stack_free_p)
	x509_stack *authorities = certificates_read(pair->cacert);
	_cleanup_(x509_stack_free_p)
	x509_stack *chain = NULL;
	int r;

	if (!authorities || sk_X509_num(authorities) == 0)
		return refuse(why, size, "cacert %s holds no certificate in PEM",
			      pair->cacert_path);
	*ret_not_after_s = 0;
	if (!pair->cert)
		return 0;
	chain = certificates_read(pair->cert);
	if (!chain || sk_X509_num(chain) == 0)
		return refuse(why, size, "cert %s holds no certificate in PEM", pair->cert_path);
	r = key_check(pair, sk_X509_value(chain, 0), why, size);
	if (r == 0)
		r = chain_check(pair, authorities, chain, why, size);
	if (r == 0)
		*ret_not_after_s = time_of(X509_get0_notAfter(sk_X509_value(chain, 0)));
	return r;
}

int rpc_x509_check(const struct rpc_x509_pair *pair, int64_t *ret_not_after_s, char *why,
		   size_t why_size)
{
	int r = pair_check(pair, ret_not_after_s, why, why_size);

	ERR_clear_error();
	return r;
}

/* ---- identity ------------------------------------------------------------------ */

/* A name with a zero byte inside reads differently for others: it is none. */
static char *string_of(const ASN1_STRING *s)
{
	const char *data = (const char *)ASN1_STRING_get0_data(s);
	size_t len = (size_t)ASN1_STRING_length(s);

	return strnlen(data, len) == len ? strndup(data, len) : NULL;
}

static char *address_of(const ASN1_STRING *s)
{
	int len = ASN1_STRING_length(s);
	char text[INET6_ADDRSTRLEN];

	if (len != 4 && len != 16)
		return NULL;
	inet_ntop(len == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(s), text, sizeof(text));
	return strdup(text);
}

static void name_add(struct rpc_identity *identity, const GENERAL_NAME *name)
{
	struct rpc_name *n = &identity->names[identity->n_names];

	switch (name->type) {
	case GEN_DNS:
		*n = (struct rpc_name){ RPC_NAME_DNS, string_of(name->d.dNSName) };
		break;
	case GEN_URI:
		*n = (struct rpc_name){ RPC_NAME_URI,
					string_of(name->d.uniformResourceIdentifier) };
		break;
	case GEN_IPADD:
		*n = (struct rpc_name){ RPC_NAME_IP, address_of(name->d.iPAddress) };
		break;
	default:
		return;
	}
	identity->n_names += n->text != NULL;
}

static int identity_read(X509 *cert, struct rpc_identity **ret_identity)
{
	_cleanup_(rpc_identity_free_p)
	struct rpc_identity *identity = calloc(1, sizeof(*identity));
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	GENERAL_NAMES *names;
	int n;

	if (!identity)
		return -ENOMEM;
	identity->references = 1;
	identity->not_after_s = time_of(X509_get0_notAfter(cert));
	if (at >= 0)
		identity->subject =
			string_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	n = names ? sk_GENERAL_NAME_num(names) : 0;
	n = n < RPC_NAMES_MAX ? n : RPC_NAMES_MAX;
	identity->names = calloc((size_t)n + 1, sizeof(*identity->names));
	for (int i = 0; identity->names && i < n; i++)
		name_add(identity, sk_GENERAL_NAME_value(names, i));
	GENERAL_NAMES_free(names);
	if (!identity->names)
		return -ENOMEM;
	*ret_identity = TAKE_PTR(identity);
	return 0;
}

int rpc_x509_identity(const char *pem, size_t len, struct rpc_identity **ret_identity)
{
	_cleanup_(BIO_free_all_p)
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	_cleanup_(X509_free_p)
	X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, (void *)"") : NULL;
	int r = cert ? identity_read(cert, ret_identity) : -EINVAL;

	ERR_clear_error();
	return r;
}

void rpc_identity_free(struct rpc_identity *identity)
{
	if (!identity || --identity->references)
		return;
	for (size_t i = 0; i < identity->n_names; i++)
		free(identity->names[i].text);
	free(identity->names);
	free(identity->subject);
	free(identity);
}

bool rpc_identity_has(const struct rpc_identity *identity, enum rpc_name_kind kind,
		      const char *text)
{
	for (size_t i = 0; identity && i < identity->n_names; i++) {
		const struct rpc_name *n = &identity->names[i];

		if (n->kind != kind)
			continue;
		if ((kind == RPC_NAME_DNS ? strcasecmp : strcmp)(n->text, text) == 0)
			return true;
	}
	return false;
}

void rpc_identity_describe(const struct rpc_identity *identity, char *text, size_t size)
{
	size_t at;
	int n;

	n = snprintf(text, size, "%s (", identity->subject ?: "without a name");
	for (size_t i = 0; i < identity->n_names; i++) {
		at = n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
		n = (int)at +
		    snprintf(text + at, size - at, "%s%s", i ? ", " : "", identity->names[i].text);
	}
	at = n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
	snprintf(text + at, size - at, ")");
}
