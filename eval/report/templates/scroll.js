"use strict";
// A table that is wider than the screen says so.
const scrollers = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.previousElementSibling.classList.toggle("shown", target.scrollWidth > target.clientWidth + 1);
  }
});
for (const region of document.querySelectorAll(".scroll")) scrollers.observe(region);
