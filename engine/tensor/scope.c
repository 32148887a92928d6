/* Scopes: lists of tensors that die together. Each open scope knows its parent; closing one hands its children to
 * its own parent, so that scopes may close in any order. */
#include "tensor_internal.h"

tb_scope *tb_scope_open(void)
{
    tb_ctx *ctx = tbi_ctx();
    if (!ctx) return NULL;
    tb_scope *scope = tb_heap_alloc(ctx->heap, sizeof *scope, TB_MEM_OTHER);
    if (!scope) {
        tbi_poisoned(ctx);
        return NULL;
    }
    tbi_scope_enter(ctx, scope);
    return scope;
}

void tbi_scope_enter(tb_ctx *ctx, tb_scope *scope)
{
    *scope = (tb_scope){.ctx = ctx, .parent = ctx->scope, .next_open = ctx->open_scopes};
    ctx->open_scopes = ctx->scope = scope;
}

void tbi_scope_adopt(tb_scope *scope, tb_tensor *t)
{
    t->scope = scope;
    t->scope_prev = NULL;
    t->scope_next = scope->first;
    if (scope->first) scope->first->scope_prev = t;
    scope->first = t;
}

void tbi_scope_disown(tb_tensor *t)
{
    if (t->scope_prev) t->scope_prev->scope_next = t->scope_next;
    else t->scope->first = t->scope_next;
    if (t->scope_next) t->scope_next->scope_prev = t->scope_prev;
    t->scope = NULL;
}

void tb_scope_keep(tb_scope *scope, tb_tensor *t)
{
    if (!scope || !t || t->scope != scope) return;
    tbi_scope_disown(t);
    tbi_scope_adopt(scope->parent, t);
}

void tb_scope_close(tb_scope *scope)
{
    if (!scope) return;
    tbi_scope_leave(scope);
    tb_heap_free(scope->ctx->heap, scope);
}

void tbi_scope_leave(tb_scope *scope)
{
    tb_ctx *ctx = scope->ctx;
    while (scope->first) {
        tb_tensor *t = scope->first;
        tbi_scope_disown(t);
        tb_release(t);
    }
    if (ctx->scope == scope) ctx->scope = scope->parent;
    for (tb_scope **link = &ctx->open_scopes; *link;) {
        if (*link == scope) {
            *link = scope->next_open;
            continue;
        }
        if ((*link)->parent == scope) (*link)->parent = scope->parent;
        link = &(*link)->next_open;
    }
}

tb_tensor *tb_scope_escape(tb_scope *scope, tb_tensor *t)
{
    tb_scope_keep(scope, t);
    tb_scope_close(scope);
    return t;
}

tb_scope *tb_scope_switch(tb_scope *scope)
{
    tb_ctx *ctx = scope ? scope->ctx : tbi_ctx();
    tb_scope *before = ctx->scope;
    ctx->scope = scope ? scope : &ctx->root;
    return before;
}
