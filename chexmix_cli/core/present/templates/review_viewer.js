"use strict";

/**
 * A picture on a canvas: zoom, pan, window and level. Level and width are in the film's 8-bit grey levels.
 * Squares that a sentence rests on are painted over it where they are given.
 */
class Viewer {
  constructor(canvas, onWindow) {
    this.canvas = canvas;
    this.onWindow = onWindow;
    this.look = { level: 127.5, width: 255, isInverted: false };
    this.isWindowing = false;
    this.pointers = new Map();
    this.source = null;
    this.blocks = null;
    this.fit();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Show the picture of a data URL; the last one asked for wins. */
  async show(url) {
    this.url = url;
    this.source = null;
    this.draw();
    if (!url) return;
    const image = new Image();
    image.src = url;
    await image.decode();
    if (this.url !== url) return;
    const buffer = document.createElement("canvas");
    buffer.width = image.naturalWidth;
    buffer.height = image.naturalHeight;
    const context = buffer.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    this.source = context.getImageData(0, 0, buffer.width, buffer.height);
    this.shown = context.createImageData(buffer.width, buffer.height);
    this.buffer = buffer;
    this.apply();
  }

  /** Set level, width or inversion, and draw. */
  set(changes) {
    Object.assign(this.look, changes);
    this.look.level = Math.min(255, Math.max(0, this.look.level));
    this.look.width = Math.min(510, Math.max(2, this.look.width));
    this.apply();
  }

  apply() {
    if (!this.source) return;
    const { level, width, isInverted } = this.look;
    const table = new Uint8ClampedArray(256);
    for (let grey = 0; grey < 256; grey++) {
      const value = ((grey - level) / width + 0.5) * 255;
      table[grey] = isInverted ? 255 - value : value;
    }
    const [from, to] = [this.source.data, this.shown.data];
    for (let place = 0; place < from.length; place += 4) {
      to[place] = table[from[place]];
      to[place + 1] = table[from[place + 1]];
      to[place + 2] = table[from[place + 2]];
      to[place + 3] = 255;
    }
    this.buffer.getContext("2d").putImageData(this.shown, 0, 0);
    this.draw();
  }

  fit() {
    this.zoom = 1;
    this.offset = [0, 0];
    this.draw();
  }

  /** Zoom around a point of the canvas, its middle where none is given. */
  zoomBy(factor, point = [this.canvas.width / 2, this.canvas.height / 2]) {
    const zoom = Math.min(32, Math.max(1, this.zoom * factor));
    const middle = [this.canvas.width / 2, this.canvas.height / 2];
    this.offset = this.offset.map((at, axis) => {
      const from = point[axis] - middle[axis];
      return zoom === 1 ? 0 : from - ((from - at) * zoom) / this.zoom;
    });
    this.zoom = zoom;
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const [width, height] = [this.canvas.width, this.canvas.height];
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (!this.source) return;
    const scale = Math.min(width / this.buffer.width, height / this.buffer.height) * this.zoom;
    const [shownWidth, shownHeight] = [this.buffer.width * scale, this.buffer.height * scale];
    const left = (width - shownWidth) / 2 + this.offset[0];
    const top = (height - shownHeight) / 2 + this.offset[1];
    context.imageSmoothingEnabled = scale < 4;
    context.drawImage(this.buffer, left, top, shownWidth, shownHeight);
    if (this.blocks) this.paint(context, left, top, shownWidth, shownHeight);
  }

  /** Paint squares warm by what the sentence loses without them. */
  paint(context, left, top, width, height) {
    const most = Math.max(...this.blocks.flat());
    if (!(most > 0)) return;
    const side = this.blocks.length;
    this.blocks.forEach((row, y) =>
      row.forEach((drop, x) => {
        context.fillStyle = `rgba(255,120,0,${(0.55 * Math.max(0, drop)) / most})`;
        context.fillRect(left + (x * width) / row.length, top + (y * height) / side, width / row.length, height / side);
      }),
    );
  }

  wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * 0.0015), this.place(event));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / Math.max(1, box.width);
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.place(event);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    this.pointers.set(event.pointerId, now);
    const [x, y] = [now[0] - before[0], now[1] - before[1]];
    if (others.length) {
      const [other] = others;
      const spread = (at) => Math.max(8, Math.hypot(at[0] - other[0], at[1] - other[1]));
      this.zoomBy(spread(now) / spread(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    } else if (this.isWindowing || event.shiftKey || event.buttons === 2) {
      this.set({ level: this.look.level - y / 3, width: this.look.width + x / 1.5 });
      this.onWindow();
    } else {
      this.offset = [this.offset[0] + x, this.offset[1] + y];
      this.draw();
    }
  }
}
