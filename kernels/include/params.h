/* Every kernel's parameters: one struct a kernel, passed by value. bindgen makes the Rust side from this file. */
#pragma once
#include "params/common.h"
