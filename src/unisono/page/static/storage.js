// What the browser keeps for a tab. It may keep nothing (storage is blocked, or full): then the page goes on without.

const here = new Map(); // what the browser did not keep, until the page is left

export function kept(name) {
  if (here.has(name)) return here.get(name);
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

// Whether the browser keeps it. What it does not keep is there until the page is left.
export function keep(name, words) {
  try {
    sessionStorage.setItem(name, words);
    here.delete(name);
    return true;
  } catch {
    here.set(name, words);
    return false;
  }
}

export function forget(name) {
  here.delete(name);
  try {
    sessionStorage.removeItem(name);
  } catch {
    // there is nothing to forget
  }
}
