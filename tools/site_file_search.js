// A browser starts no worker for a page that was opened from a file: there the search's script runs
// in a frame, which is spoken to as a worker is.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(script) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.worker = this;
      this.loaded = new Promise((resolve) => (this.frame.onload = resolve));
      this.answer = (data) => this.onmessage?.({ data: structuredClone(data) });
      const answer = "self.postMessage = (data) => frameElement.worker.answer(data)";
      const source = new URL(script, location).href;
      this.frame.srcdoc = `<script>${answer}<\/script><script src="${source}"><\/script>`;
      document.body.append(this.frame);
    }

    postMessage(data) {
      const sent = { data: structuredClone(data) }; // a worker never shares what it is sent
      this.loaded.then(() => this.frame.contentWindow?.onmessage(sent));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
