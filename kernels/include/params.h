/* Every kernel's parameters: one struct a kernel, passed by value. bindgen makes the Rust side from this file. */
#pragma once
#include "params/common.h"
#include "params/beam_attention.h"
#include "params/beam_state.h"
#include "params/copy_rows.h"
#include "params/embed.h"
#include "params/expand_select.h"
#include "params/head.h"
#include "params/history_attention.h"
#include "params/linear.h"
#include "params/linear_epilogue.h"
#include "params/norm.h"
#include "params/write_kv.h"
